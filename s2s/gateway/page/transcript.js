// The conversation as bubbles: one for each turn of the caller and each answer of the agent, words as they come.

const LATE_MS = 3000; // words of a turn may come this long after it

export class Transcript {
  #list;
  #turn = { you: null, agent: null }; // the bubble that is open, or the last one

  constructor(list) {
    this.#list = list;
  }

  clear() {
    this.#list.replaceChildren();
    this.#turn = { you: null, agent: null };
  }

  // `at` is the time of the call as text.
  begin(side, at) {
    this.#drop(this.#turn[side]);
    const item = document.createElement("li");
    item.className = `${side} wordless`;
    item.setAttribute("aria-busy", "true"); // screen readers wait for the whole of it
    const who = document.createElement("b");
    who.className = "who";
    who.textContent = side === "you" ? "You: " : "Agent: ";
    const words = document.createElement("p");
    words.textContent = "speaking …";
    const about = document.createElement("small");
    about.textContent = at;
    item.append(who, words, about);
    this.#list.append(item);
    this.#turn[side] = { item, words, about, at, open: true, text: "", ended: 0 };
    this.#show(item);
  }

  add(side, text, at) {
    let turn = this.#turn[side];
    if (!turn || (!turn.open && performance.now() - turn.ended > LATE_MS)) {
      this.begin(side, at);
      turn = this.#turn[side];
      turn.open = false; // nobody will say when it ends
      turn.item.removeAttribute("aria-busy");
    }
    turn.text += text;
    turn.ended = performance.now();
    if (!turn.text.trim()) return;
    turn.words.textContent = turn.text.trim();
    turn.item.classList.remove("wordless");
    this.#show(turn.item);
  }

  end(side, durationMs, cut = false) {
    const turn = this.#turn[side];
    if (!turn?.open) return;
    turn.open = false;
    turn.ended = performance.now();
    const duration = `${(durationMs / 1000).toFixed(1)} s`;
    if (!turn.text.trim()) turn.words.textContent = cut ? "spoke" : `spoke for ${duration}`;
    turn.about.textContent = cut ? `${turn.at} · interrupted after ${duration}` : `${turn.at} · ${duration}`;
    turn.item.classList.toggle("cut", cut);
    turn.item.removeAttribute("aria-busy");
  }

  note(text) {
    const item = document.createElement("li");
    item.className = "note";
    item.textContent = text;
    this.#list.append(item);
    this.#show(item);
  }

  // A bubble that was begun and never ended.
  #drop(turn) {
    if (turn?.open && !turn.text.trim()) turn.item.remove();
  }

  // Scrolls to what is new, but for a reader who has scrolled back.
  #show(item) {
    const view = this.#list.parentElement;
    const below = view.scrollHeight - view.scrollTop - view.clientHeight;
    if (below < item.offsetHeight + 80) view.scrollTop = view.scrollHeight;
  }
}
