// All about one member, in a dialog that goes on living while it is open.

import { age, bytes, element, ms, path, percent, rate, say, short, told } from "./format.js";
import { neighbours } from "./model.js";
import { attempts } from "./parts.js";
import { outline } from "./chart.js";

/** Links that are listed; a record has 32 at most, and this node may have more. */
const MAX_LINKS = 64;

/** Round-trip times kept for each member, one a second. */
const KEPT = 300;

const SVG = "http://www.w3.org/2000/svg";

export class Detail {
  #dialog; #id = null; #parts; #rtts = new Map(); #fetched = 0; #line;

  constructor(dialog) {
    this.#dialog = dialog;
    this.#line = document.createElementNS(SVG, "path");
    this.#line.setAttribute("class", "line rtt");
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 300 48");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.append(this.#line);
    const close = element("button", { type: "button", class: "close", "aria-label": "Close" }, "×");
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => { this.#id = null; });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    this.#parts = { title: element("h2", { id: "detail-title" }), facts: element("dl"), why: element("p", { class: "why" }), links: element("ul", { class: "links" }), attempts: element("ol") };
    this.#parts.linksTitle = element("h3");
    this.#parts.spark = element("div", { class: "plot small", role: "img" }, svg);
    this.#parts.tried = element("div", {}, element("h3", {}, "Attempts at a direct path"), this.#parts.attempts);
    dialog.append(element("div", { class: "sheet" }, element("div", { class: "top-line" }, this.#parts.title, close), this.#parts.why, this.#parts.facts, this.#parts.spark, this.#parts.linksTitle, this.#parts.links, this.#parts.tried));
  }

  /** Opens on a member. */
  open(id, mesh) {
    [this.#id, this.#fetched] = [id, 0];
    say(this.#parts.why, "");
    attempts(this.#parts.attempts, [], "Asking …");
    if (!this.#dialog.open) this.#dialog.showModal();
    this.show(mesh);
  }

  /** Keeps what will be asked for later, and shows the member that is open. */
  note(mesh) {
    for (const id of this.#rtts.keys()) if (!mesh.byId.has(id)) this.#rtts.delete(id);
    for (const node of mesh.nodes) {
      const kept = this.#rtts.get(node.id) ?? [];
      kept.push({ at_ms: performance.now(), rtt_ms: node.path.kind === "none" ? null : node.rtt_ms });
      if (kept.length > KEPT) kept.shift();
      this.#rtts.set(node.id, kept);
    }
    this.show(mesh);
  }

  show(mesh) {
    const node = mesh.byId.get(this.#id);
    if (!this.#id) return;
    if (!node) {
      say(this.#parts.why, "This member has left the mesh.");
      return;
    }
    say(this.#parts.title, node.name);
    this.#facts(node);
    this.#spark(node);
    const near = neighbours(mesh, node);
    say(this.#parts.linksTitle, `Direct links: ${near.length}`);
    const words = near.slice(0, MAX_LINKS).map(({ node, rtt_ms }) => `${node.name}${rtt_ms == null ? "" : ` ${told(rtt_ms)}`}`);
    if (near.length > MAX_LINKS) words.push(`${near.length - MAX_LINKS} more`);
    if ([...this.#parts.links.children].map((item) => item.textContent).join("\n") !== words.join("\n")) {
      this.#parts.links.replaceChildren(...words.map((word) => element("li", {}, word)));
    }
    this.#parts.tried.hidden = this.#parts.why.hidden = node.self;
    if (!node.self) this.#ask(node.id);
  }

  #facts(node) {
    const entries = [["Id", node.id], ["NAT", node.port_mapped ? `${node.nat}, its router maps a port` : node.nat], ["Relays for others", node.relays ? "yes" : "no"]];
    if (!node.self) {
      entries.push(["Path", path(node.path)], ["Health", [node.health, ...node.issues.map((issue) => issue.replaceAll("_", " "))].join(", ")], ["Round trip", ms(node.rtt_ms)], ["Loss", percent(node.loss)],
        ["Sent", `${bytes(node.tx)}, now ${rate(node.tx_rate)}`], ["Received", `${bytes(node.rx)}, now ${rate(node.rx_rate)}`],
        ["Heard of", node.age_ms == null ? "no record yet" : `${age(node.age_ms)} ago`], ["Ask on the node", `net-mesh why ${short(node.id)}`]);
    }
    const list = this.#parts.facts;
    const same = list.children.length === entries.length;
    if (!same) list.replaceChildren(...entries.map(([label]) => element("div", {}, element("dt", {}, label), element("dd"))));
    entries.forEach(([, text], index) => say(list.children[index].children[1], text));
  }

  #spark(node) {
    const kept = (this.#rtts.get(node.id) ?? []).filter((sample) => sample.rtt_ms != null);
    this.#parts.spark.hidden = kept.length < 2;
    if (kept.length < 2) return;
    const most = Math.max(...kept.map((sample) => sample.rtt_ms)) * 1.1 || 1;
    const [first, last] = [kept[0].at_ms, kept.at(-1).at_ms];
    this.#line.setAttribute("d", outline(this.#rtts.get(node.id), "rtt_ms", (at) => ((at - first) / (last - first)) * 300, (value) => 47 - (value / most) * 44));
    this.#parts.spark.setAttribute("aria-label", `Round trip of the last ${age(last - first)}: at most ${ms(most / 1.1)}`);
  }

  async #ask(id) {
    // As often as the page looks, and never twice at a time.
    if (performance.now() - this.#fetched < 900) return;
    this.#fetched = Infinity;
    try {
      const response = await fetch(`api/why/${encodeURIComponent(id)}`, { signal: AbortSignal.timeout(5000) });
      const why = await response.json();
      if (this.#id !== id) return;
      const next = why.next_attempt_ms == null ? "" : ` The next attempt is due in ${age(why.next_attempt_ms)}.`;
      say(this.#parts.why, why.error ?? `${why.reason[0]?.toUpperCase() ?? ""}${why.reason.slice(1)}.${next}`);
      attempts(this.#parts.attempts, (why.attempts ?? []).toReversed(), "None is remembered.");
    } catch {
      if (this.#id === id) say(this.#parts.why, "The node does not say why: it does not answer.");
    } finally {
      if (this.#id === id) this.#fetched = performance.now();
    }
  }
}
