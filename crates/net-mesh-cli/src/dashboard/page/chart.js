// Lines over the last minutes.

import { age, element, say } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [600, 120];

/** The time that is shown, in milliseconds. */
const SPAN = 600_000;

/** Where two samples are further apart, the line is broken: nobody knows what was between them. */
const GAP = 5_000;

export class Chart {
  #series; #format; #lines; #figures; #top; #start; #plot; #readout; #cursor;
  #samples = []; #scale = 1; #began = 0;

  /** @param series `[{key, label, look}]`; `format` makes a figure of a value */
  constructor(section, series, format) {
    [this.#series, this.#format] = [series, format];
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const part = (name, look) => {
      const made = document.createElementNS(SVG, name);
      made.setAttribute("class", look);
      svg.append(made);
      return made;
    };
    part("path", "grid").setAttribute("d", `M0 .5H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}`);
    this.#lines = series.map(({ look }) => part("path", `line ${look}`));
    this.#cursor = part("path", "cursor");
    [this.#top, this.#start, this.#readout] = [element("span", { class: "top" }), element("span"), element("p", { class: "readout" })];
    this.#figures = series.map(() => element("strong"));
    const legend = element("ul", { class: "legend" }, ...series.map(({ label, look }, index) =>
      element("li", {}, element("span", { class: `swatch ${look}` }), ` ${label} `, this.#figures[index])));
    this.#plot = element("div", { class: "plot", role: "img" }, this.#top, svg);
    const axis = element("p", { class: "axis" }, this.#start, element("span", {}, "now"));
    section.append(legend, this.#plot, axis, this.#readout);
    this.#plot.addEventListener("pointermove", (event) => this.#read(event));
    this.#plot.addEventListener("pointerleave", () => { this.#cursor.setAttribute("d", ""); say(this.#readout, ""); });
  }

  show(samples) {
    this.#samples = samples;
    const last = samples.at(-1);
    if (!last) return;
    this.#began = Math.max(last.at_ms - SPAN, samples[0].at_ms);
    const span = Math.max(10_000, last.at_ms - this.#began);
    const shown = samples.filter((sample) => sample.at_ms >= this.#began);
    const values = shown.flatMap((sample) => this.#series.map(({ key }) => sample[key] ?? 0));
    this.#scale = rounded(Math.max(...values));
    say(this.#top, this.#format(this.#scale));
    say(this.#start, `${age(span)} ago`);
    this.#series.forEach(({ key }, index) => {
      this.#lines[index].setAttribute("d", outline(shown, key, (at) => WIDTH - ((last.at_ms - at) / span) * WIDTH, (value) => HEIGHT - 1 - (value / this.#scale) * (HEIGHT - 4)));
      say(this.#figures[index], last[key] == null ? "–" : this.#format(last[key]));
    });
    const words = this.#series.map(({ key, label }) => {
      const known = shown.map((sample) => sample[key]).filter((value) => value != null);
      if (known.length === 0) return `${label}: nothing yet`;
      return `${label}: ${this.#format(known.at(-1))} now, from ${this.#format(Math.min(...known))} to ${this.#format(Math.max(...known))}`;
    });
    this.#plot.setAttribute("aria-label", `Over the last ${age(span)}. ${words.join(". ")}.`);
  }

  #read(event) {
    const box = this.#plot.getBoundingClientRect();
    const last = this.#samples.at(-1);
    if (!last || box.width === 0) return;
    const span = Math.max(10_000, last.at_ms - this.#began);
    const wanted = last.at_ms - (1 - (event.clientX - box.left) / box.width) * span;
    const sample = this.#samples.reduce((best, one) => (Math.abs(one.at_ms - wanted) < Math.abs(best.at_ms - wanted) ? one : best), last);
    const x = WIDTH - ((last.at_ms - sample.at_ms) / span) * WIDTH;
    this.#cursor.setAttribute("d", `M${x.toFixed(1)} 0V${HEIGHT}`);
    const figures = this.#series.map(({ key, label }) => `${label} ${sample[key] == null ? "–" : this.#format(sample[key])}`);
    say(this.#readout, `${age(last.at_ms - sample.at_ms)} ago: ${figures.join(", ")}`);
  }
}

/** The line of one value; broken where it is not known. */
export function outline(samples, key, x, y) {
  let [path, pen, before] = ["", false, null];
  for (const sample of samples) {
    if (sample[key] == null) {
      pen = false;
      continue;
    }
    if (before !== null && sample.at_ms - before > GAP) pen = false;
    path += `${pen ? "L" : "M"}${x(sample.at_ms).toFixed(1)} ${y(sample[key]).toFixed(1)}`;
    // A point alone would be a line of no length, which is not drawn.
    if (!pen) path += "h.1";
    [pen, before] = [true, sample.at_ms];
  }
  return path;
}

/** The next of 1, 2 and 5 times a power of ten. */
function rounded(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}
