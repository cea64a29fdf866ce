// One call by @openai/agents over WebSocket, at the pace of time: node call.mjs URL CALLER.pcm (24 kHz, 16 bits).
// Prints one JSON object: the types of all events, bytes of audio, interruptions of the playback, and the history.
import { readFileSync } from 'node:fs';
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession } from '@openai/agents/realtime';

const [url, file] = process.argv.slice(2);
const pcm = readFileSync(file);
const types = [];
const errors = [];
let bytes = 0;
let interruptions = 0;

const session = new RealtimeSession(new RealtimeAgent({ name: 'desk', instructions: 'Be kind.' }), {
  transport: new OpenAIRealtimeWebSocket({ url }),
});
session.on('audio', (event) => { bytes += event.data.byteLength; });
session.on('audio_interrupted', () => { interruptions += 1; });
session.on('error', (error) => { errors.push(JSON.stringify(error)); });
session.transport.on('*', (event) => { types.push(event.type); });
await session.connect({ apiKey: 'none', url });

const packet = 1920;
const start = Date.now();
for (let at = 0; at < pcm.length; at += packet) {
  const wait = start + (40 * at) / packet - Date.now();
  if (wait > 0) await new Promise((done) => setTimeout(done, wait));
  session.sendAudio(new Uint8Array(pcm.subarray(at, at + packet)).buffer);
}
const history = session.history.map((item) => ({
  role: item.role,
  status: item.status,
  text: (item.content ?? []).map((part) => part.transcript ?? part.text ?? '').join(''),
}));
console.log(JSON.stringify({ types, errors, bytes, interruptions, history }));
session.close();
process.exit(0);
