// The page: buttons, meters and words of one call.

import { Call, CallError, RATE } from "./call.js";
import { Timeline, lit } from "./timeline.js";
import { Transcript } from "./transcript.js";

const AUDIBLE_DB = -50;
const PAUSE_MS = 300; // silence of the agent after which a sound is a new beginning
const LONGEST_ANSWER_MS = 10000;

const $ = (id) => document.getElementById(id);
const timeline = new Timeline($("timeline"));
const transcript = new Transcript($("log"));
let server = { model: "", token: false };
let call = null;
let clock = null; // seconds of the call, for the status
let answers = null;
let levels = { you: 0, agent: 0 };
let startedMs = 0; // when the caller began this turn

// From the end of a caller's turn to the sound after it. The server tells the end later than the sound may come.
class Answers {
  #quietMs = PAUSE_MS;
  onset = null; // ms of the clock of heard audio
  stop = null;
  times = [];

  // A level of the agent in dBFS, 10 ms that were played at `atMs`.
  played(level, atMs) {
    if (level < AUDIBLE_DB) {
      this.#quietMs += 10;
      return;
    }
    if (this.#quietMs >= PAUSE_MS) this.onset = atMs;
    this.#quietMs = 0;
    this.#match();
  }

  started() {
    this.stop = null; // the caller goes on
  }

  stopped(atMs) {
    this.stop = atMs;
    this.#match();
  }

  #match() {
    const gap = this.onset - this.stop;
    if (this.stop == null || this.onset == null || gap < 0 || gap > LONGEST_ANSWER_MS) return;
    this.stop = null;
    this.times.push(gap);
    show("answer", gap);
    show("median", [...this.times].sort((a, b) => a - b)[this.times.length >> 1]);
  }
}

function show(id, milliseconds) {
  $(id).textContent = `${Math.round(milliseconds)} ms`;
}

function state(name, text) {
  $("status").dataset.state = $("call").dataset.state = name;
  $("status").textContent = text;
  $("call").textContent = { idle: "Start call", connecting: "Cancel", live: "Hang up" }[name];
  $("mute").disabled = name !== "live";
  $("token-row").hidden = !server.token || name !== "idle";
}

function problem(text) {
  $("problem").hidden = !text;
  $("problem").textContent = text;
}

function time(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

async function start() {
  problem("");
  transcript.clear();
  timeline.clear();
  answers = new Answers();
  clock = 0;
  for (const id of ["answer", "median", "buffer", "gaps"]) $(id).textContent = "–";
  $("empty").hidden = true;
  state("connecting", "Connecting");
  const mine = new Call({ model: server.model, token: $("token").value.trim(), needsToken: server.token });
  call = mine;
  mine.addEventListener("packet", ({ detail }) => onPacket(mine, detail));
  mine.addEventListener("event", ({ detail }) => onEvent(detail));
  mine.addEventListener("end", ({ detail }) => finish(mine, detail));
  try {
    await mine.start();
    if (call === mine) state("live", time(0));
  } catch (error) {
    if (call !== mine) return; // cancelled
    if (!(error instanceof CallError)) console.error(error);
    finish(mine, error instanceof CallError ? error.message : `The call could not start: ${error.message}`);
    if (error.aboutToken) $("token").focus();
  }
}

function finish(which, reason) {
  if (call !== which) return;
  call = null;
  problem(reason);
  state("idle", clock ? `Ended after ${time(clock)}` : "Ready");
  $("empty").hidden = $("log").childElementCount > 0;
  $("mute").setAttribute("aria-pressed", "false");
  $("mute").textContent = "Mute";
  levels = { you: 0, agent: 0 };
  for (const side of ["you", "agent"]) meter(side, -Infinity);
}

function onPacket(mine, packet) {
  const startMs = mine.heardMs(packet.frame);
  packet.you.forEach((you, block) => {
    timeline.add(you, packet.agent[block]);
    answers.played(packet.agent[block], startMs + 10 * block + mine.outputMs);
  });
  meter("you", Math.max(...packet.you));
  meter("agent", Math.max(...packet.agent));
  clock = startMs / 1000;
  if (Math.round(startMs) % 500 === 0) {
    show("buffer", (packet.waiting * 1000) / RATE);
    $("gaps").textContent = packet.gaps;
  }
  if (call === mine && $("status").textContent !== time(clock)) tick();
}

// Every second, and without telling screen readers.
function tick() {
  $("status").setAttribute("aria-live", "off");
  $("status").textContent = time(clock);
}

// Up at once, down slowly.
function meter(side, level) {
  levels[side] = Math.max(lit(level), levels[side] - 0.06);
  const element = $(`${side}-level`);
  element.firstElementChild.style.transform = `scaleX(${levels[side].toFixed(3)})`;
  element.setAttribute("aria-valuenow", Math.round(100 * levels[side]));
}

function onEvent(event) {
  const now = time(clock);
  switch (event.type) {
    case "session.input_transcript.delta":
      return transcript.add("you", event.delta, now);
    case "session.output_transcript.delta":
      return transcript.add("agent", event.delta, now);
    case "s2s.caller_started":
      startedMs = event.at_ms;
      answers.started();
      return transcript.begin("you", now);
    case "s2s.caller_stopped":
      answers.stopped(event.at_ms);
      return transcript.end("you", event.at_ms - startedMs);
    case "s2s.answer_started":
      return transcript.begin("agent", now);
    case "s2s.answer_ended":
      if (event.reason === "turn_detected") timeline.mark();
      return transcript.end("agent", event.played_ms, event.reason === "turn_detected");
    case "session.delegation.created":
      return transcript.note(`The agent asks for: ${event.delegation.name ?? "an action"}`);
    case "error":
      return problem(event.error.message);
  }
}

$("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!call) return void start();
  const mine = call;
  mine.hangUp();
  finish(mine, "");
});

$("mute").addEventListener("click", () => {
  const muted = $("mute").getAttribute("aria-pressed") !== "true";
  $("mute").setAttribute("aria-pressed", muted);
  call?.mute(muted);
});

try {
  server = await (await fetch("page.json", { cache: "no-store" })).json();
  $("model").textContent = server.model;
  $("token-row").hidden = !server.token;
} catch {
  problem("The server cannot be reached.");
}
