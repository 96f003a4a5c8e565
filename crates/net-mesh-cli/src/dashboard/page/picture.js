// The picture of the mesh, on a canvas: everything of one look is one path, so the number of strokes does not depend
// on how many members there are. It is drawn when something has changed, and not otherwise.

import { CLASSES, neighbours } from "./model.js";
import { place } from "./layout.js";
import { count, ms, path, say } from "./format.js";

/** How near a pointer must come to a member, in pixels. */
const REACH = 16;

/** Names of members that are not well, at most: more would hide each other. */
const MOST_UNWELL = 12;

/** How long members slide when others come and go, in milliseconds. */
const SLIDE = 350;

export class Picture {
  #canvas; #tip; #context; #open;
  #mesh = null; #matches = () => true;
  #places = new Map(); #from = new Map(); #slideBegan = 0; #radius = 6; #labelled = false;
  #size = [0, 0]; #colours = {};
  #pointed = null; #byKeys = false; #pending = false;
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  /** @param {(id: string) => void} open told when somebody wants to know all about a member */
  constructor(canvas, tip, open) {
    [this.#canvas, this.#tip, this.#open] = [canvas, tip, open];
    this.#context = canvas.getContext("2d");
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#restyle());
    new ResizeObserver(() => this.#resize()).observe(canvas);
    canvas.addEventListener("pointermove", (event) => this.#point(this.#near(event), false));
    canvas.addEventListener("pointerleave", () => this.#point(null, false));
    canvas.addEventListener("click", (event) => {
      const id = this.#near(event);
      if (id) this.#open(id);
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#byKeys && this.#point(null, false));
    this.#restyle();
  }

  /** Shows `mesh`; who does not match is faint. */
  show(mesh, matches) {
    const same = this.#mesh && this.#order(this.#mesh) === this.#order(mesh);
    [this.#mesh, this.#matches] = [mesh, matches];
    if (!same) this.#arrange(true);
    if (this.#pointed && !mesh.byId.has(this.#pointed)) this.#pointed = null;
    const unwell = mesh.nodes.filter((node) => node.health !== "healthy").length;
    const kinds = (kind) => mesh.nodes.filter((node) => node.path.kind === kind).length;
    this.#canvas.setAttribute("aria-label",
      `This node and ${count(mesh.nodes.length, "other member")}: ${kinds("direct")} direct, ${kinds("relayed")} relayed, ${unwell} not well; ${count(mesh.others.length, "direct link")} among the others.`);
    this.#describe();
    this.#draw();
  }

  /** Where a member stands, in pixels of the canvas. */
  placeOf(id) {
    return this.#places.get(id)?.slice(0, 2) ?? null;
  }

  #order(mesh) {
    return mesh.nodes.map((node) => node.id).join();
  }

  #arrange(slides) {
    if (!this.#mesh || this.#size[0] === 0) return;
    const before = this.#places;
    const arranged = place(this.#mesh.self, this.#mesh.nodes, ...this.#size);
    [this.#places, this.#radius, this.#labelled] = [arranged.places, arranged.radius, arranged.labelled];
    if (slides && before.size > 0 && !this.#still.matches) {
      [this.#from, this.#slideBegan] = [before, performance.now()];
    } else {
      this.#from = new Map();
    }
  }

  #resize() {
    const [width, height] = [this.#canvas.clientWidth, this.#canvas.clientHeight];
    if (width === 0 || (width === this.#size[0] && height === this.#size[1])) return;
    this.#size = [width, height];
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    [this.#canvas.width, this.#canvas.height] = [width * scale, height * scale];
    this.#context.setTransform(scale, 0, 0, scale, 0, 0);
    this.#arrange(false);
    this.#draw();
  }

  #restyle() {
    const style = getComputedStyle(document.documentElement);
    const names = ["ink", "soft", "card", "link", "suspect", "failed", "accent", ...CLASSES.map((nat) => `nat-${nat}`)];
    this.#colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.#draw();
  }

  #near(event) {
    const box = this.#canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, distance] = [null, REACH];
    for (const [id, at] of this.#places) {
      const away = Math.hypot(at[0] - x, at[1] - y);
      if (away < distance) [best, distance] = [id, away];
    }
    return best;
  }

  #key(event) {
    if (!this.#mesh) return;
    const ids = [this.#mesh.self.id, ...this.#mesh.nodes.map((node) => node.id)];
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      const at = ids.indexOf(this.#pointed);
      this.#point(ids[at < 0 ? 0 : (at + step + ids.length) % ids.length], true);
    } else if (event.key === "Escape") {
      this.#point(null, true);
    } else if (event.key === "Enter" && this.#pointed) {
      this.#open(this.#pointed);
    } else {
      return;
    }
    event.preventDefault();
  }

  #point(id, byKeys) {
    if (id === this.#pointed) return;
    [this.#pointed, this.#byKeys] = [id, byKeys];
    this.#canvas.classList.toggle("pointed", id !== null);
    this.#describe();
    this.#draw();
  }

  #describe() {
    const node = this.#mesh?.byId.get(this.#pointed);
    this.#tip.hidden = !node;
    if (!node) return;
    const way = node.self ? "this node" : `${path(node.path)}, ${ms(node.rtt_ms)}, ${node.health}`;
    say(this.#tip, `${node.name}: ${node.nat}; ${way}`);
    const [x, y] = this.#places.get(node.id) ?? [0, 0];
    const left = Math.min(Math.max(0, x - this.#tip.offsetWidth / 2), this.#size[0] - this.#tip.offsetWidth);
    const above = y - this.#tip.offsetHeight - 14;
    this.#tip.style.left = `${Math.max(0, left)}px`;
    this.#tip.style.top = `${above < 0 ? y + 14 : above}px`;
  }

  #draw() {
    if (this.#pending) return;
    this.#pending = true;
    requestAnimationFrame((now) => {
      this.#pending = false;
      if (this.#mesh && this.#size[0] > 0) this.#paint(now);
    });
  }

  /** Where members are at this moment, while they slide. */
  #moment(now) {
    const share = this.#from.size > 0 ? Math.min(1, (now - this.#slideBegan) / SLIDE) : 1;
    if (share >= 1) {
      this.#from = new Map();
      return this.#places;
    }
    const eased = 1 - (1 - share) ** 3;
    const at = new Map();
    for (const [id, to] of this.#places) {
      const from = this.#from.get(id) ?? to;
      at.set(id, [from[0] + (to[0] - from[0]) * eased, from[1] + (to[1] - from[1]) * eased, to[2]]);
    }
    this.#draw();
    return at;
  }

  #paint(now) {
    const [context, [width, height]] = [this.#context, this.#size];
    const at = this.#moment(now);
    context.clearRect(0, 0, width, height);
    this.#paintOthers(at);
    this.#paintOwn(at);
    this.#paintPointed(at);
    this.#paintNodes(at);
    this.#paintLabels(at);
  }

  /** One stroke for all of `lines`, functions that each add one to the path. */
  #stroke(colour, width, alpha, dash, lines) {
    if (lines.length === 0) return;
    const context = this.#context;
    context.beginPath();
    for (const line of lines) line(context);
    context.setLineDash(dash);
    context.globalAlpha = alpha;
    [context.strokeStyle, context.lineWidth] = [colour, width];
    context.stroke();
    context.globalAlpha = 1;
    context.setLineDash([]);
  }

  /** A line between two members that bends towards the middle, so that neighbours on a ring do not hide it. */
  #bent(a, b) {
    const [cx, cy] = [this.#size[0] / 2, this.#size[1] / 2];
    const bend = 0.55;
    const x = (a[0] + b[0]) / 2, y = (a[1] + b[1]) / 2;
    return (context) => {
      context.moveTo(a[0], a[1]);
      context.quadraticCurveTo(x + (cx - x) * bend, y + (cy - y) * bend, b[0], b[1]);
    };
  }

  #paintOthers(at) {
    const lines = this.#mesh.others.map(({ a, b }) => this.#bent(at.get(a.id), at.get(b.id)));
    // The more there are, the fainter: their sum is what is to be seen.
    const alpha = Math.max(0.1, Math.min(0.5, 30 / Math.max(1, lines.length)));
    this.#stroke(this.#colours.soft, 1, this.#pointed ? alpha / 2 : alpha, [], lines);
  }

  /** The way of this node to a member: straight, or from the first relay on. */
  #way(at, { to, kind, via }) {
    const self = at.get(this.#mesh.self.id);
    const end = at.get(to.id);
    const stops = kind === "relayed" ? via.map((node) => at.get(node.id)).filter(Boolean) : [];
    if (stops.length === 0) {
      return (context) => { context.moveTo(self[0], self[1]); context.lineTo(end[0], end[1]); };
    }
    // How the first relay is reached is drawn as its own way.
    const legs = [...stops.slice(1), end].map((next, index) => this.#bent(stops[index], next));
    return (context) => legs.forEach((leg) => leg(context));
  }

  #paintOwn(at) {
    const colour = { healthy: this.#colours.link, suspect: this.#colours.suspect, failed: this.#colours.failed };
    const usual = Math.max(0.3, Math.min(0.95, 90 / Math.max(1, this.#mesh.own.length)));
    for (const health of ["healthy", "suspect", "failed"]) {
      for (const kind of ["direct", "relayed", "none"]) {
        const lines = this.#mesh.own.filter((way) => way.health === health && way.kind === kind).map((way) => this.#way(at, way));
        // A member that failed and is still reached over relays is not cut off: the way itself is well.
        const look = health === "failed" && kind === "relayed" ? colour.healthy : colour[health];
        const dash = kind === "relayed" ? [6, 5] : kind === "none" ? [2, 5] : [];
        this.#stroke(look, health === "healthy" ? 1.4 : 2.2, health === "healthy" ? usual : 0.95, dash, lines);
      }
    }
  }

  #paintPointed(at) {
    const node = this.#mesh.byId.get(this.#pointed);
    if (!node) return;
    const here = at.get(node.id);
    const lines = neighbours(this.#mesh, node).map((other) => this.#bent(here, at.get(other.node.id)));
    this.#stroke(this.#colours.accent, 2, 1, [], lines);
  }

  #paintNodes(at) {
    const context = this.#context;
    const dot = (node, radius) => (context) => {
      const [x, y] = at.get(node.id);
      context.moveTo(x + radius, y);
      context.arc(x, y, radius, 0, 2 * Math.PI);
    };
    const all = [this.#mesh.self, ...this.#mesh.nodes];
    const size = (node) => (node.self ? this.#radius + 4 : this.#radius);
    for (const matching of [false, true]) {
      const chosen = all.filter((node) => this.#matches(node) === matching);
      context.globalAlpha = matching ? 1 : 0.2;
      for (const nat of CLASSES) {
        const ofClass = chosen.filter((node) => node.nat === nat);
        if (ofClass.length === 0) continue;
        context.beginPath();
        for (const node of ofClass) dot(node, size(node))(context);
        context.fillStyle = this.#colours[`nat-${nat}`];
        context.fill();
        [context.strokeStyle, context.lineWidth] = [this.#colours.card, 1.5];
        context.stroke();
      }
    }
    context.globalAlpha = 1;
    const unwell = (health) => this.#mesh.nodes.filter((node) => node.health === health);
    this.#stroke(this.#colours.suspect, 2.5, 1, [], unwell("suspect").map((node) => dot(node, this.#radius + 3)));
    this.#stroke(this.#colours.failed, 2.5, 1, [], unwell("failed").map((node) => (context) => {
      const [x, y] = at.get(node.id);
      const arm = this.#radius + 3;
      context.moveTo(x - arm, y - arm); context.lineTo(x + arm, y + arm);
      context.moveTo(x + arm, y - arm); context.lineTo(x - arm, y + arm);
    }));
    this.#stroke(this.#colours.ink, 2, 1, [], [dot(this.#mesh.self, size(this.#mesh.self) + 2)]);
    const pointed = this.#mesh.byId.get(this.#pointed);
    if (pointed) this.#stroke(this.#colours.accent, 3, 1, [], [dot(pointed, size(pointed) + 4)]);
  }

  #paintLabels(at) {
    const context = this.#context;
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = this.#colours.ink;
    context.textBaseline = "middle";
    if (!this.#labelled) return this.#paintUnwellNames(at);
    for (const node of this.#mesh.nodes) {
      const [x, y, angle] = at.get(node.id);
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      const away = this.#radius + 7;
      context.textAlign = Math.abs(cos) < 0.25 ? "center" : cos > 0 ? "left" : "right";
      context.fillText(clipped(context, node.name, 104), x + cos * away, y + sin * (away + 3));
    }
    const [x, y] = at.get(this.#mesh.self.id);
    context.textAlign = "center";
    context.font = "600 12px system-ui, sans-serif";
    const name = clipped(context, this.#mesh.self.name, 140);
    this.#paintName(name, x, y + this.#radius + 18);
  }

  /** Where there is no room for all names: of those that are not well, towards the middle. */
  #paintUnwellNames(at) {
    const unwell = this.#mesh.nodes.filter((node) => node.health !== "healthy");
    if (unwell.length > MOST_UNWELL) return;
    for (const node of unwell) {
      const [x, y, angle] = at.get(node.id);
      const right = Math.cos(angle) > 0;
      this.#context.textAlign = right ? "right" : "left";
      this.#paintName(clipped(this.#context, node.name, 120), x + (this.#radius + 8) * (right ? -1 : 1), y);
    }
  }

  /** A name that can be read on lines. */
  #paintName(name, x, y) {
    const context = this.#context;
    [context.strokeStyle, context.lineWidth] = [this.#colours.card, 4];
    context.strokeText(name, x, y);
    context.fillText(name, x, y);
  }
}

function clipped(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let cut = [...text];
  while (cut.length > 1 && context.measureText(`${cut.join("")}…`).width > width) cut = cut.slice(0, -1);
  return `${cut.join("")}…`;
}
