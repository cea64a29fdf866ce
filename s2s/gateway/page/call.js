// A call: microphone, loudspeaker and a WebSocket of the GPT-Live protocol. Knows nothing of the page.

export const RATE = 24000;

const KEY_PROTOCOL = "openai-insecure-api-key."; // the only place where a browser can put a token, but for the address
const REASONS = {
  server_full: "All lines are busy. Try again in a moment.",
  server_draining: "The server is shutting down and takes no new calls.",
  server_starting: "The model is still loading. Try again in a moment.",
  too_many_calls: "You have as many calls as you may have at once.",
  server_shutdown: "The server has shut down.",
  expired: "The call has reached its longest duration.",
  idle_timeout: "The server heard nothing from this page for too long.",
  failed: "Something failed in the model. This call is over, others go on.",
  input_flood: "Audio arrived far faster than real time.",
};

// An error whose message is for people.
export class CallError extends Error {
  aboutToken = false;
}

class TokenError extends CallError {
  aboutToken = true;
}

// Events: "packet" (detail: a message of the worklet), "event" (detail: an event of the server), "end" (detail: reason).
export class Call extends EventTarget {
  #token;
  #needsToken;
  #model;
  #socket;
  #context;
  #stream;
  #node;
  #started = false;
  #over = false;
  #firstFrame = null; // of the worklet's clock, when the first packet was sent

  constructor({ model, token, needsToken }) {
    super();
    this.#model = model;
    this.#token = token;
    this.#needsToken = needsToken;
  }

  async start() {
    try {
      this.#stream = await openMicrophone();
      this.#checkWanted();
      await this.#openAudio();
      this.#checkWanted();
      await this.#connect();
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  // Opening takes time, in which somebody may hang up.
  #checkWanted() {
    if (this.#over) throw new CallError("Cancelled.");
  }

  // Milliseconds of the server's clock of heard audio, for a frame of the worklet's.
  heardMs(frame) {
    return this.#firstFrame === null ? null : ((frame - this.#firstFrame) * 1000) / RATE;
  }

  // How long the machine takes from the worklet to the loudspeaker, where the browser says it.
  get outputMs() {
    return 1000 * (this.#context?.outputLatency || this.#context?.baseLatency || 0);
  }

  mute(muted) {
    for (const track of this.#stream.getTracks()) track.enabled = !muted;
    this.#send({ type: `session.input_audio.${muted ? "mute" : "unmute"}` });
  }

  hangUp() {
    this.#send({ type: "session.close" });
    this.#end("");
  }

  async #openAudio() {
    this.#context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    try {
      await this.#context.audioWorklet.addModule("worklet.js");
    } catch {
      throw await this.#whyNot();
    }
    await this.#context.resume();
    this.#node = new AudioWorkletNode(this.#context, "call", { channelCount: 1, channelCountMode: "explicit" });
    this.#node.port.onmessage = ({ data }) => this.#packet(data);
    try {
      this.#context.createMediaStreamSource(this.#stream).connect(this.#node);
    } catch {
      throw new CallError("This browser cannot take the microphone at 24 kHz. Set the device to 24 or 48 kHz, or try another browser.");
    }
    this.#node.connect(this.#context.destination);
    for (const track of this.#stream.getTracks()) {
      track.onended = () => this.#end("The microphone was disconnected.");
    }
  }

  #connect() {
    const address = new URL("v1/live/sessions?extensions=1", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const protocols = this.#token ? ["realtime", KEY_PROTOCOL + this.#token] : ["realtime"];
    return new Promise((resolve, reject) => {
      try {
        this.#socket = new WebSocket(address, protocols);
      } catch {
        reject(new TokenError("This token has characters that a browser cannot send."));
        return;
      }
      let said = "";
      this.#socket.onopen = () => {
        const audio = { format: { type: "audio/pcm", rate: RATE } };
        this.#send({ type: "session.start", session: { model: this.#model, audio, store: false } });
      };
      this.#socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        if (event.type === "error") said = REASONS[event.error.code] ?? event.error.message;
        if (event.type === "session.started") {
          this.#started = true;
          resolve(event.session);
        }
        this.#receive(event);
      };
      this.#socket.onclose = async ({ code, reason }) => {
        const why = REASONS[reason] || said;
        if (this.#started) this.#end(why || (code === 1000 ? "" : "The connection was lost."));
        else reject(why ? new CallError(why) : await this.#whyNot());
      };
    });
  }

  // A browser does not tell a page how a handshake or a script failed, so look around.
  async #whyNot() {
    try {
      await fetch("livez", { cache: "no-store" });
    } catch {
      return new CallError("The server cannot be reached.");
    }
    if (!this.#socket) return new CallError("A part of this page could not be loaded.");
    if (!this.#needsToken) return new CallError("The server refused the call.");
    return new TokenError(this.#token ? "The server does not know this token." : "This server needs a token.");
  }

  #receive(event) {
    if (event.type === "session.output_audio.delta") {
      const bytes = Uint8Array.from(atob(event.delta), (char) => char.charCodeAt(0));
      this.#node.port.postMessage(bytes.buffer, [bytes.buffer]);
      return;
    }
    this.dispatchEvent(new CustomEvent("event", { detail: event }));
  }

  #packet(packet) {
    if (!this.#started || this.#over) return;
    this.#firstFrame ??= packet.frame;
    const audio = btoa(String.fromCharCode(...new Uint8Array(packet.pcm)));
    this.#send({ type: "session.input_audio.append", audio });
    this.dispatchEvent(new CustomEvent("packet", { detail: packet }));
  }

  #send(event) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(event));
  }

  #end(reason) {
    if (this.#over) return;
    this.#release();
    this.dispatchEvent(new CustomEvent("end", { detail: reason }));
  }

  #release() {
    this.#over = true;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    if (this.#context && this.#context.state !== "closed") this.#context.close();
    this.#socket?.close(); // what was sent before still arrives
  }
}

async function openMicrophone() {
  if (!window.isSecureContext || !navigator.mediaDevices) {
    throw new CallError("Browsers give the microphone to https:// pages and to localhost only. Open this page under one of them.");
  }
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const messages = {
      NotAllowedError: "This page may not use the microphone. Allow it in the browser’s address bar and try again.",
      NotFoundError: "There is no microphone. Connect one and try again.",
      NotReadableError: "The microphone is in use by another program.",
    };
    throw new CallError(messages[error.name] ?? `The microphone cannot be opened: ${error.message}`);
  }
}
