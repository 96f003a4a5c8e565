// The small parts of the page: facts in short, the legend, classes, recent rendezvous.

import { age, element, ms, rate, say } from "./format.js";
import { CLASSES, cutOff } from "./model.js";

/** Sets a list's items in place: `texts` by key, made once by `make`. */
function keep(list, entries, make, update) {
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let next = list.firstElementChild;
  for (const entry of entries) {
    let item = known.get(entry.key);
    if (!item) {
      item = make(entry);
      item.dataset.key = entry.key;
    }
    known.delete(entry.key);
    update(item, entry);
    if (item === next) next = next.nextElementSibling;
    else list.insertBefore(item, next);
  }
  for (const gone of known.values()) gone.remove();
}

/** The facts on top. */
export function facts(list, mesh, snapshot) {
  const { nodes } = mesh;
  const kind = (kind) => nodes.filter((node) => node.path.kind === kind && !cutOff(node)).length;
  const health = (health) => nodes.filter((node) => node.health === health).length;
  const { sample, status } = snapshot;
  const [suspect, failed] = [health("suspect"), health("failed")];
  const entries = [
    { key: "Members", text: `${nodes.length + 1}`, small: "with this node" },
    { key: "Direct", text: `${kind("direct")}`, small: "straight to the peer" },
    { key: "Relayed", text: `${kind("relayed")}`, small: "through members" },
    { key: "Not well", text: `${suspect + failed}`, small: `${suspect} suspect, ${failed} failed`, look: failed ? "failed" : suspect ? "suspect" : "" },
    { key: "Round trip", text: ms(sample?.rtt_ms), small: `longest ${ms(sample?.rtt_max_ms)}` },
    { key: "Throughput", text: rate(sample ? sample.tx + sample.rx : 0), small: "both directions" },
    { key: "Carried", text: status.relay ? `${status.relay.circuits}` : "none", small: status.relay ? `${status.relay.circuits === 1 ? "circuit" : "circuits"} for others` : "does not relay" },
  ];
  keep(list, entries, ({ key }) => element("div", {}, element("dt", {}, key), element("dd"), element("small")), (item, entry) => {
    const look = entry.look ?? "";
    if (item.className !== look) item.className = look;
    say(item.children[1], entry.text);
    say(item.children[2], entry.small);
  });
}

/** What lines and marks mean. */
export function legend(list) {
  const entries = [["direct", "direct"], ["relayed", "relayed"], ["others", "direct, among others"], ["suspect", "suspect"], ["failed", "failed"]];
  list.append(...entries.map(([look, label]) => element("li", {}, element("span", { class: `mark ${look}` }), label)));
}

/** The distribution of NAT classes; a press chooses one. */
export function classes(list, mesh, chosen, choose) {
  const all = [...mesh.byId.values()];
  const entries = CLASSES.map((nat) => ({ key: nat, number: all.filter((node) => node.nat === nat).length }));
  const most = Math.max(1, ...entries.map(({ number }) => number));
  const make = ({ key }) => {
    const bar = element("span", { class: "bar" }, element("span", { class: `nat-${key}` }));
    const button = element("button", { type: "button" }, element("span", { class: `swatch nat-${key}` }), element("span", { class: "label" }, key), bar, element("strong"));
    button.addEventListener("click", () => choose(key));
    return element("li", {}, button);
  };
  keep(list, entries, make, (item, { key, number }) => {
    const [button] = item.children;
    const [, , bar, figure] = button.children;
    const pressed = String(chosen === key);
    if (button.getAttribute("aria-pressed") !== pressed) button.setAttribute("aria-pressed", pressed);
    const width = `${(number / most) * 100}%`;
    if (bar.firstElementChild.style.inlineSize !== width) bar.firstElementChild.style.inlineSize = width;
    say(figure, `${number}`);
  });
}

/** The words of one attempt. */
export function attemptWords(attempt) {
  const by = attempt.mediator ? `introduced by ${attempt.mediator}` : "over their own session";
  const took = attempt.took_ms == null ? "" : ` after ${attempt.took_ms} ms`;
  return { head: `${attempt.outcome}${took}`, small: `${attempt.plan}, ${by}; ${attempt.role}; ${attempt.packets} checks sent. ${attempt.reason}` };
}

function attemptItem() {
  return element("li", {}, element("p", {}, element("strong"), " ", element("span", { class: "outcome" }), " ", element("time")), element("small"));
}

/** Attempts at direct ways, latest first. */
export function attempts(list, entries, none) {
  if (entries.length === 0) {
    if (list.firstElementChild?.className !== "none") list.replaceChildren(element("li", { class: "none" }));
    say(list.firstElementChild, none);
    return;
  }
  if (list.firstElementChild?.className === "none") list.replaceChildren();
  const keyed = entries.map((attempt) => ({ ...attempt, key: attempt.id }));
  keep(list, keyed, attemptItem, (item, attempt) => {
    const [line, small] = item.children;
    const [name, outcome, when] = line.children;
    const words = attemptWords(attempt);
    const look = `outcome ${attempt.outcome.replaceAll(" ", "-")}`;
    if (outcome.className !== look) outcome.className = look;
    say(name, attempt.name ?? "");
    say(outcome, words.head);
    say(when, `${age(attempt.at_ms_ago)} ago`);
    say(small, words.small);
  });
}
