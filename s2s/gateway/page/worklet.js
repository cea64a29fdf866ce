// The audio thread of a call: takes the microphone in packets of 20 ms and plays the agent, both on one clock.

const PACKET = 480; // samples at 24 kHz
const BLOCK = 240; // levels are of 10 ms
const LEAD = 1440; // 60 ms at first: how long a packet waits that finds nothing playing, so that the next may be late
const MORE = 480; // what a gap adds to it, up to 200 ms, and 20 s without one take away
const MOST = 4800;
const CALM = 20 * 24000;
const LIMIT = 24000; // what waits longer than a second is dropped, oldest first
const QUIET = 0.001; // -60 dBFS: packets this quiet can be left out unheard, to catch up

class Call extends AudioWorkletProcessor {
  constructor() {
    super();
    this.waiting = []; // packets of the agent, Float32Array
    this.size = 0; // samples in them
    this.at = 0; // of the first one, already played
    this.lead = 0; // samples of silence before them
    this.target = LEAD;
    this.changed = 0; // when the target was
    this.dry = true;
    this.gaps = 0;
    this.frame = 0; // samples since the start
    this.begin();
    this.port.onmessage = ({ data }) => this.receive(data);
  }

  begin() {
    this.pcm = new Int16Array(PACKET);
    this.filled = 0;
    this.you = [0, 0]; // energy of each block
    this.agent = [0, 0];
  }

  receive(buffer) {
    const pcm = Float32Array.from(new Int16Array(buffer), (value) => value / 32768);
    if (this.dry) {
      this.dry = false;
      this.lead = this.target;
    } else if (this.size > this.target + pcm.length && pcm.every((value) => Math.abs(value) < QUIET)) {
      return;
    } else {
      this.lead = Math.min(this.lead, Math.max(0, this.target - this.size)); // a burst is a buffer by itself
    }
    this.waiting.push(pcm);
    this.size += pcm.length;
    while (this.size > LIMIT) {
      this.size -= this.waiting.shift().length - this.at;
      this.at = 0;
    }
  }

  aim(target) {
    this.target = target;
    this.changed = this.frame;
  }

  next() {
    if (this.lead > 0) {
      this.lead -= 1;
      return 0;
    }
    if (!this.waiting.length) {
      if (!this.dry) {
        this.dry = true;
        this.gaps += 1;
        this.aim(Math.min(MOST, this.target + MORE));
      }
      return 0;
    }
    const value = this.waiting[0][this.at++];
    this.size -= 1;
    if (this.at === this.waiting[0].length) {
      this.waiting.shift();
      this.at = 0;
    }
    return value;
  }

  process([input], [output]) {
    const heard = input[0]; // missing while the microphone is off
    const played = output[0];
    for (let i = 0; i < played.length; i++) {
      const caller = heard ? heard[i] : 0;
      const agent = this.next();
      for (const channel of output) channel[i] = agent;
      const block = this.filled < BLOCK ? 0 : 1;
      this.you[block] += caller * caller;
      this.agent[block] += agent * agent;
      this.pcm[this.filled++] = Math.max(-1, Math.min(1, caller)) * 32767;
      if (this.filled === PACKET) this.finish();
    }
    return true;
  }

  finish() {
    const level = (energy) => 10 * Math.log10(energy / BLOCK + 1e-10); // dBFS
    const packet = {
      frame: this.frame,
      pcm: this.pcm.buffer,
      you: this.you.map(level),
      agent: this.agent.map(level),
      waiting: this.lead + this.size,
      gaps: this.gaps,
    };
    this.frame += PACKET;
    if (this.frame - this.changed > CALM) this.aim(Math.max(LEAD, this.target - MORE));
    this.port.postMessage(packet, [packet.pcm]);
    this.begin();
  }
}

registerProcessor("call", Call);
