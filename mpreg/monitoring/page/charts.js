// A chart of what happened over time: SVG, a few lines in it, a cursor for pointer and arrow keys.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 170, LEFT = 46, RIGHT = 6, TOP = 8, BOTTOM = 20;
const SPAN_MIN = 60, SPAN_MAX = 600;

function make(name, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

function html(name, className = "", text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

// 0, and up to four steps of 1, 2 or 5 times a power of ten, the last one above all values.
// Where all are 0, one step up to `least`.
export function ticks(most, whole, least) {
  if (!(most > 0)) return [0, least];
  const rough = most / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  if (whole) step = Math.max(1, Math.ceil(step));
  const found = [0];
  while (found[found.length - 1] < most) found.push(found.length * step);
  return found;
}

export class Chart {
  // lines: [{key, label, color, dashed, area, bridge}]; `bridge`: over how many seconds without a
  // value the line goes on. format: a value as text.
  constructor(figure, { title, lines, format, whole = false, least = 1 }) {
    Object.assign(this, { figure, title, lines, format, whole, least });
    this.data = null;
    this.cursor = null;
    const caption = html("figcaption");
    this.legend = html("ul", "legend");
    caption.append(html("h2", "", title), this.legend);
    this.svg = make("svg", { class: "chart", role: "img", tabindex: "0", "aria-label": title });
    this.said = html("p", "unseen");
    this.said.setAttribute("aria-live", "polite");
    figure.append(caption, this.svg, this.said);
    this.values = lines.map((line) => {
      const item = html("li"), value = html("b", "", "–");
      const mark = html("i", line.dashed ? `${line.color} dashed` : line.color);
      item.append(mark, `${line.label} `, value);
      this.legend.append(item);
      return value;
    });
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.moveTo(null));
    this.svg.addEventListener("blur", () => this.moveTo(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(figure);
  }

  show(history) {
    this.data = history;
    if (this.cursor !== null && this.cursor >= history.at.length) this.cursor = null;
    this.draw();
  }

  point(event) {
    if (!this.data || !this.data.at.length) return;
    const box = this.svg.getBoundingClientRect();
    const wanted = event.clientX - box.left;
    let nearest = 0;
    this.data.at.forEach((at, index) => {
      if (Math.abs(this.x(at) - wanted) < Math.abs(this.x(this.data.at[nearest]) - wanted)) nearest = index;
    });
    this.moveTo(nearest);
  }

  key(event) {
    const last = this.data ? this.data.at.length - 1 : -1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
    if (last < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const from = this.cursor === null ? last : this.cursor;
    this.moveTo(Math.min(last, Math.max(0, from + steps[event.key])));
    this.said.textContent = `${clock(this.data.at[this.cursor])}: ${this.told(this.cursor)}`;
  }

  moveTo(cursor) {
    this.cursor = cursor;
    this.draw();
  }

  told(index) {
    return this.lines.map((line) => `${line.label} ${this.text(line, index)}`).join(", ");
  }

  text(line, index) {
    const value = index < 0 ? null : this.data[line.key][index];
    return value === null || value === undefined ? "–" : this.format(value);
  }

  x(at) {
    return LEFT + ((at - this.from) / (this.to - this.from)) * (this.width - LEFT - RIGHT);
  }

  y(value) {
    return HEIGHT - BOTTOM - (value / this.top) * (HEIGHT - TOP - BOTTOM);
  }

  draw() {
    if (!this.data) return;
    const { at } = this.data;
    this.width = Math.max(200, this.svg.clientWidth || 400);
    this.to = at.length ? at[at.length - 1] : 0;
    const span = at.length ? Math.min(SPAN_MAX, Math.max(SPAN_MIN, this.to - at[0])) : SPAN_MIN;
    this.from = this.to - span;
    const seen = this.lines.flatMap((line) => this.data[line.key].filter((value, index) => value !== null && at[index] >= this.from));
    const levels = ticks(Math.max(0, ...seen), this.whole, this.least);
    this.top = levels[levels.length - 1];
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.svg.replaceChildren(...this.frame(levels, span), ...this.lines.flatMap((line) => this.path(line)), ...this.mark());
    const shown = this.cursor ?? at.length - 1;
    this.lines.forEach((line, index) => { this.values[index].textContent = this.text(line, shown); });
    this.svg.setAttribute("aria-label", this.summary(span));
  }

  summary(span) {
    const { at } = this.data;
    if (!at.length) return `${this.title}: nothing yet`;
    const parts = this.lines.map((line) => {
      const values = this.data[line.key].filter((value) => value !== null);
      const most = values.length ? `, at most ${this.format(Math.max(...values))}` : "";
      return `${line.label} now ${this.text(line, at.length - 1)}${most}`;
    });
    return `${this.title}, over ${spanText(span)}: ${parts.join("; ")}. Arrow keys move through time.`;
  }

  frame(levels, span) {
    const right = this.width - RIGHT, bottom = HEIGHT - BOTTOM;
    const drawn = levels.flatMap((level) => [
      make("line", { class: "grid", x1: LEFT, x2: right, y1: this.y(level), y2: this.y(level) }),
      make("text", { x: LEFT - 7, y: this.y(level) + 4, "text-anchor": "end" }, this.format(level)),
    ]);
    for (const share of [1, 0.5]) {
      const x = share === 1 ? LEFT : this.x(this.to - span * share);
      drawn.push(make("text", { x, y: bottom + 15, "text-anchor": share === 1 ? "start" : "middle" }, `−${spanText(span * share)}`));
    }
    drawn.push(make("text", { x: right, y: bottom + 15, "text-anchor": "end" }, "now"));
    return drawn;
  }

  path(line) {
    const { at } = this.data;
    const runs = [];
    let run = null, before = 0;
    this.data[line.key].forEach((value, index) => {
      if (value === null || at[index] < this.from) {
        if (!(at[index] - before < (line.bridge ?? 0))) run = null;
        return;
      }
      before = at[index];
      if (!run) runs.push(run = []);
      run.push(`${this.x(at[index]).toFixed(1)} ${this.y(value).toFixed(1)}`);
    });
    const shapes = [];
    if (line.area) {
      const base = HEIGHT - BOTTOM;
      const areas = runs.filter((one) => one.length > 1).map((one) => `M${one[0].split(" ")[0]} ${base}L${one.join("L")}L${one[one.length - 1].split(" ")[0]} ${base}Z`);
      if (areas.length) shapes.push(make("path", { class: `area ${line.color}`, d: areas.join("") }));
    }
    // A run of one point is a dot: a line of no length with round ends.
    const d = runs.map((one) => `M${one.join("L")}${one.length === 1 ? "h.01" : ""}`).join("");
    if (d) shapes.push(make("path", { class: `line ${line.color}${line.dashed ? " dashed" : ""}`, d }));
    return shapes;
  }

  mark() {
    if (this.cursor === null) return [];
    const at = this.data.at[this.cursor];
    if (at === undefined || at < this.from) return [];
    const x = this.x(at);
    const left = x > this.width / 2;
    return [
      make("line", { class: "cursor", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }),
      make("text", { x: x + (left ? -5 : 5), y: TOP + 8, "text-anchor": left ? "end" : "start" }, clock(at)),
    ];
  }
}

function spanText(seconds) {
  return seconds < 120 ? `${Math.round(seconds)} s` : `${(seconds / 60).toFixed(seconds % 60 ? 1 : 0)} min`;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}
