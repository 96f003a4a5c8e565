// The members in rows: filtered, sorted, and changed in place, so that neither focus nor scrolling is lost.

import { bytes, element, ms, path, percent, rate, say, short } from "./format.js";
import { byName } from "./model.js";

/** Rows at a time; a filter finds the others. */
const MAX_ROWS = 600;

const ORDER = { healthy: 2, suspect: 1, failed: 0 };
const KINDS = { direct: 0, relayed: 1, none: 2 };
const last = (value) => value ?? Infinity;

/** What a column is called, what it says, what it is sorted by, and whether the largest comes first. */
const COLUMNS = [
  { key: "name", label: "Name", text: (node) => node.name, by: byName },
  { key: "id", label: "Id", text: (node) => short(node.id), by: (a, b) => (a.id < b.id ? -1 : 1) },
  { key: "nat", label: "NAT", text: (node) => (node.port_mapped ? `${node.nat}, port mapped` : node.nat), by: (a, b) => (a.nat < b.nat ? -1 : a.nat > b.nat ? 1 : 0) },
  { key: "path", label: "Path", text: (node) => (node.self ? "this node" : path(node.path)), by: (a, b) => KINDS[a.path.kind] - KINDS[b.path.kind] || a.path.via.join().localeCompare(b.path.via.join()) },
  { key: "rtt", label: "RTT", text: (node) => (node.self ? "" : ms(node.rtt_ms)), by: (a, b) => last(a.rtt_ms) - last(b.rtt_ms), figure: true },
  { key: "loss", label: "Loss", text: (node) => (node.self ? "" : percent(node.loss)), by: (a, b) => (b.loss ?? -1) - (a.loss ?? -1), figure: true },
  { key: "health", label: "Health", text: (node) => (node.self ? "" : [node.health, ...node.issues.map((issue) => issue.replaceAll("_", " "))].join(", ")), by: (a, b) => ORDER[a.health] - ORDER[b.health] },
  { key: "tx", label: "Sending", text: (node) => (node.self ? "" : rate(node.tx_rate)), by: (a, b) => b.tx_rate - a.tx_rate, figure: true },
  { key: "rx", label: "Receiving", text: (node) => (node.self ? "" : rate(node.rx_rate)), by: (a, b) => b.rx_rate - a.rx_rate, figure: true },
  { key: "total", label: "Total", text: (node) => (node.self ? "" : bytes(node.tx + node.rx)), by: (a, b) => b.tx + b.rx - a.tx - a.rx, figure: true },
];

export class MemberTable {
  #body; #heads = []; #rows = new Map(); #sort = { column: COLUMNS[0], reversed: false }; #open; #select; #changed;

  /** `open` is told the id of a member; `changed` that the order was changed. */
  constructor(holder, select, open, changed) {
    [this.#open, this.#select, this.#changed] = [open, select, changed];
    const head = element("tr", { role: "row" });
    for (const column of COLUMNS) {
      const button = element("button", { type: "button" }, column.label);
      button.addEventListener("click", () => this.#sortBy(column, this.#sort.column === column && !this.#sort.reversed));
      const cell = element("th", { role: "columnheader", scope: "col", class: column.figure ? "figure" : "" }, button);
      this.#heads.push(cell);
      head.append(cell);
      select.append(element("option", { value: column.key }, column.label));
    }
    this.#body = element("tbody", { role: "rowgroup" });
    // The roles stay where a narrow screen shows rows as cards.
    holder.append(element("table", { role: "table", "aria-labelledby": "members-title" }, element("thead", { role: "rowgroup" }, head), this.#body));
    select.addEventListener("change", () => this.#sortBy(COLUMNS.find(({ key }) => key === select.value), false));
    this.#marks();
  }

  #sortBy(column, reversed) {
    this.#sort = { column, reversed };
    this.#select.value = column.key;
    this.#marks();
    this.#changed();
  }

  #marks() {
    COLUMNS.forEach((column, index) => {
      const sorted = column === this.#sort.column;
      if (sorted) this.#heads[index].setAttribute("aria-sort", this.#sort.reversed ? "descending" : "ascending");
      else this.#heads[index].removeAttribute("aria-sort");
    });
  }

  /** Shows this node, and those of the others who match; returns how many match, and how many are shown. */
  show(mesh, matches) {
    const { column, reversed } = this.#sort;
    const order = (a, b) => (reversed ? -1 : 1) * column.by(a, b) || byName(a, b);
    const matching = mesh.nodes.filter(matches).sort(order);
    if (matches(mesh.self)) matching.unshift(mesh.self);
    const shown = matching.slice(0, MAX_ROWS);
    const wanted = new Set(shown.map((node) => node.id));
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue;
      row.line.remove();
      this.#rows.delete(id);
    }
    const focused = document.activeElement;
    let next = this.#body.firstChild;
    for (const node of shown) {
      const { line } = this.#row(node);
      if (line === next) next = next.nextSibling;
      else this.#body.insertBefore(line, next);
    }
    if (focused !== document.activeElement && this.#body.contains(focused)) focused.focus({ preventScroll: true });
    return { matching: matching.length, shown: shown.length };
  }

  #row(node) {
    const row = this.#rows.get(node.id) ?? this.#make(node);
    COLUMNS.forEach((column, index) => {
      const text = column.text(node);
      if (row.texts[index] === text) return;
      row.texts[index] = text;
      row.targets[index].textContent = text;
    });
    const look = `${node.self ? "self " : ""}${node.health} ${node.path.kind} nat-${node.nat}`;
    if (row.line.className !== look) row.line.className = look;
    return row;
  }

  #make(node) {
    const { id } = node;
    const cells = COLUMNS.map((column) => element("td", { role: "cell", class: `${column.key}${column.figure ? " figure" : ""}`, "data-label": column.label }));
    const button = element("button", { type: "button" });
    button.addEventListener("click", () => this.#open(id));
    cells[0].append(button);
    const targets = [button, ...cells.slice(1)];
    const line = element("tr", { role: "row", "data-id": id }, ...cells);
    const row = { line, targets, texts: [] };
    this.#rows.set(id, row);
    return row;
  }
}

/** How many are shown, in words. */
export function shownWords({ matching, shown }, total) {
  const rest = matching > shown ? `, the first ${shown} below: filter for the others` : "";
  return matching === total ? `${total} with this node${rest}` : `${matching} of ${total}${rest}`;
}

/** Says it, if it is new. */
export const sayShown = (target, result, total) => say(target, shownWords(result, total));
