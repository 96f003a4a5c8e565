// What the node says, put together for drawing: members and the lines between them.

/** The NAT classes, easiest first. */
export const CLASSES = ["direct", "full-cone", "restricted-cone", "port-restricted", "symmetric", "unknown"];

const LAST = "\uffff";

/**
 * @returns {{self: object, nodes: object[], byId: Map, own: object[], others: object[]}}
 *   `nodes` in the order of their names, without this node; `own` the ways of this node; `others` the direct links
 *   of the others among themselves, each once.
 */
export function model(snapshot, before) {
  const byId = new Map();
  for (const member of snapshot.mesh) {
    byId.set(member.node_id, { ...blank(member.node_id, member.name, member.nat), relays: member.relays, age_ms: member.age_ms, links: member.links });
  }
  const self = byId.get(snapshot.status.node_id) ?? blank(snapshot.status.node_id, snapshot.status.name, snapshot.status.nat.class);
  self.self = true;
  byId.set(self.id, self);
  for (const peer of snapshot.peers) {
    const node = byId.get(peer.node_id) ?? blank(peer.node_id, peer.name, peer.nat);
    Object.assign(node, { name: peer.name, nat: peer.nat, port_mapped: peer.port_mapped, path: peer.path, rtt_ms: peer.rtt_ms, loss: peer.loss, health: peer.health, issues: peer.issues, tx: peer.tx_bytes, rx: peer.rx_bytes });
    byId.set(node.id, node);
  }
  for (const node of byId.values()) node.text = searchable(node);
  rates(byId, snapshot.sample?.at_ms, before);
  const nodes = [...byId.values()].filter((node) => !node.self).sort(byName);
  return { self, nodes, byId, at_ms: snapshot.sample?.at_ms, ...lines(self, nodes, byId) };
}

function blank(id, name, nat) {
  return { id, name, nat, self: false, relays: false, age_ms: null, links: [], path: { kind: "none", addr: null, via: [], via_ids: [] }, rtt_ms: null, loss: null, health: "healthy", issues: [], tx: 0, rx: 0, tx_rate: 0, rx_rate: 0 };
}

/** Whether a member's path leads nowhere. Who failed and is relayed is still reached. */
export const cutOff = (node) => node.health === "failed" && node.path.kind !== "relayed";

export function byName(a, b) {
  return compare(a.name || LAST, b.name || LAST) || compare(a.id, b.id);
}

const collator = new Intl.Collator(undefined, { numeric: true });
const compare = (a, b) => collator.compare(a, b) || (a < b ? -1 : a > b ? 1 : 0);

function searchable(node) {
  return [node.name, node.id, node.nat, node.path.kind, node.path.addr ?? "", ...node.path.via, node.health, ...node.issues, node.port_mapped ? "port mapped" : "", node.self ? "this node" : ""].join("\n").toLowerCase();
}

/** What passes each second, from the counts of the snapshot before. A count that shrank began anew. */
function rates(byId, at, before) {
  const elapsed = (at - before?.at_ms) / 1000;
  for (const node of byId.values()) {
    const was = before?.byId.get(node.id);
    if (!was) continue;
    if (!(elapsed > 0)) {
      [node.tx_rate, node.rx_rate] = [was.tx_rate, was.rx_rate];
      continue;
    }
    const since = (now, then) => (now >= then ? now - then : now) / elapsed;
    node.tx_rate = since(node.tx, was.tx);
    node.rx_rate = since(node.rx, was.rx);
  }
}

function lines(self, nodes, byId) {
  const own = [];
  for (const node of nodes) {
    const failed = node.health === "failed";
    if (node.path.kind === "none" && !failed) continue;
    const via = (node.path.via_ids ?? []).map((id) => byId.get(id)).filter(Boolean);
    own.push({ to: node, kind: node.path.kind, health: node.health, via });
  }
  const pairs = new Map();
  for (const node of nodes) {
    for (const link of node.links) {
      const other = byId.get(link.node_id);
      if (!other || other === self || other === node) continue;
      const [a, b] = node.id < other.id ? [node, other] : [other, node];
      pairs.set(`${a.id}${b.id}`, { a, b, rtt_ms: link.rtt_ms });
    }
  }
  return { own, others: [...pairs.values()] };
}

/** The members linked directly with `node`, as either end says, nearest first. */
export function neighbours(mesh, node) {
  const found = new Map();
  for (const link of node.links) {
    const other = mesh.byId.get(link.node_id);
    if (other) found.set(other, link.rtt_ms);
  }
  for (const other of mesh.byId.values()) {
    if (found.has(other)) continue;
    const link = other.links.find((link) => link.node_id === node.id);
    if (link) found.set(other, link.rtt_ms);
  }
  return [...found].map(([node, rtt_ms]) => ({ node, rtt_ms })).sort((a, b) => (a.rtt_ms ?? Infinity) - (b.rtt_ms ?? Infinity) || byName(a.node, b.node));
}

/** Who is shown: the filter's words must all occur, and the class must be the chosen one. */
export function matcher(text, nat) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return (node) => (!nat || node.nat === nat) && words.every((word) => node.text.includes(word));
}
