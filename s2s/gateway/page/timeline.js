// The last seconds of a call as a picture: the caller above a line, the agent below, marks where the agent was cut.

const COLUMN_MS = 60;
const WIDTH = 3; // of a bar, and the gap after it, in pixels
const GAP = 2;
const FLOOR_DB = -55;
const CEILING_DB = -8;

// Loudness in dBFS -> how much of a meter is lit, 0 to 1.
export function lit(level) {
  return Math.max(0, Math.min(1, (level - FLOOR_DB) / (CEILING_DB - FLOOR_DB)));
}

export class Timeline {
  #canvas;
  #columns = []; // { you, agent, cut }
  #next = { you: 0, agent: 0, cut: false, blocks: 0 };
  #drawn = 0;
  #calm = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    this.#columns = [];
    this.draw();
  }

  // Levels in dBFS of the next 10 ms.
  add(you, agent) {
    const next = this.#next;
    next.you = Math.max(next.you, lit(you));
    next.agent = Math.max(next.agent, lit(agent));
    next.blocks += 1;
    if (next.blocks * 10 < COLUMN_MS) return;
    this.#columns.push(next);
    this.#columns.splice(0, this.#columns.length - 1000);
    this.#next = { you: 0, agent: 0, cut: false, blocks: 0 };
    if (!this.#calm.matches || performance.now() - this.#drawn > 500) this.draw();
  }

  // The agent was cut here.
  mark() {
    this.#next.cut = true;
  }

  draw() {
    this.#drawn = performance.now();
    const canvas = this.#canvas;
    const scale = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    const paint = canvas.getContext("2d");
    paint.scale(scale, scale);
    paint.fillStyle = colour("line");
    paint.fillRect(0, height / 2 - 0.5, width, 1);
    const room = height / 2 - 8;
    let x = width - WIDTH;
    for (let i = this.#columns.length - 1; i >= 0 && x > -WIDTH; i--, x -= WIDTH + GAP) {
      const { you, agent, cut } = this.#columns[i];
      bar(paint, x, height / 2 - 3, -you * room, colour("you"));
      bar(paint, x, height / 2 + 3, agent * room, colour("agent"));
      if (cut) {
        paint.fillStyle = colour("cut");
        paint.fillRect(x + WIDTH, 4, 1.5, height - 8);
        paint.beginPath();
        paint.arc(x + WIDTH + 0.75, 6, 3.5, 0, 7);
        paint.fill();
      }
    }
  }
}

function bar(paint, x, from, size, colour) {
  if (Math.abs(size) < 1) return;
  paint.fillStyle = colour;
  paint.beginPath();
  paint.roundRect(x, Math.min(from, from + size), WIDTH, Math.abs(size), WIDTH / 2);
  paint.fill();
}
