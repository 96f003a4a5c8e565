// The page's loop: asks the node once a second, and hands what it says to the parts.

import { ms, rate, say, short } from "./format.js";
import { matcher, model } from "./model.js";
import { Picture } from "./picture.js";
import { MemberTable, sayShown } from "./table.js";
import { Chart } from "./chart.js";
import { Detail } from "./detail.js";
import { attempts, classes, facts, legend } from "./parts.js";

/** Between an answer and the next question, in milliseconds. */
const EVERY = 1000;

/** An answer that takes longer is none. */
const PATIENCE = 5000;

/** Samples kept, as many as the node keeps. */
const KEPT = 600;

/** Samples that are further apart have others between them, which are fetched. */
const MISSED = 2500;

const byId = (id) => document.getElementById(id);
const state = { mesh: null, snapshot: null, samples: [], nat: null, gone: null, timer: 0, asking: false };

const detail = new Detail(byId("detail"));
const open = (id) => detail.open(id, state.mesh);
const picture = new Picture(byId("picture"), byId("tip"), open);
const table = new MemberTable(byId("table"), byId("sort"), open, () => draw());
const rtt = new Chart(byId("rtt"), [{ key: "rtt_ms", label: "median", look: "rtt" }, { key: "rtt_max_ms", label: "longest", look: "rtt-max" }], ms);
const traffic = new Chart(byId("traffic"), [{ key: "tx", label: "sent", look: "tx" }, { key: "rx", label: "received", look: "rx" }], rate);
legend(byId("lines"));

function draw() {
  const { mesh, snapshot } = state;
  if (!mesh) return;
  const matches = matcher(byId("filter").value, state.nat);
  facts(byId("facts"), mesh, snapshot);
  picture.show(mesh, matches);
  classes(byId("classes"), mesh, state.nat, (nat) => {
    state.nat = state.nat === nat ? null : nat;
    draw();
  });
  const total = mesh.nodes.length + 1;
  const result = table.show(mesh, matches);
  sayShown(byId("shown"), result, total);
  byId("all").hidden = result.matching === total;
  attempts(byId("attempts"), snapshot.rendezvous, "None: no pair of this node's has needed one lately.");
}

function head({ status }) {
  document.title = `${status.name} · net-mesh`;
  say(byId("name"), status.name);
  const seen = status.reflexive.length > 0 ? `seen at ${status.reflexive.join(", ")}` : "not seen from outside yet";
  const { state: asked, external } = status.port_mapping ?? {};
  const port = asked && asked !== "off" ? ` · port mapping ${asked}${external ? ` ${external}` : ""}` : "";
  say(byId("about"), `${short(status.node_id)} · ${status.nat.class} · ${seen}${port} · UDP ${status.udp} · net-mesh ${status.version}`);
  byId("problem").hidden = !status.problem;
  say(byId("problem"), status.problem ?? "");
}

/** The node's fault, or the network's. Whatever else is thrown is this page's. */
class Silence extends Error {}

async function ask(path) {
  try {
    const response = await fetch(path, { signal: AbortSignal.timeout(PATIENCE) });
    if (!response.ok) throw new Silence(`The node answers with ${response.status}`);
    return await response.json();
  } catch (error) {
    throw error instanceof Silence ? error : new Silence("The node does not answer", { cause: error });
  }
}

/** Adds the latest sample; where some are missing, asks for all. */
async function remember(sample) {
  const last = state.samples.at(-1);
  if (!sample || sample.at_ms === last?.at_ms) return;
  if (!last || sample.at_ms < last.at_ms || sample.at_ms - last.at_ms > MISSED) {
    state.samples = await ask("api/history");
  } else {
    state.samples.push(sample);
    if (state.samples.length > KEPT) state.samples.shift();
  }
  rtt.show(state.samples);
  traffic.show(state.samples);
}

async function look() {
  if (state.asking) return;
  state.asking = true;
  clearTimeout(state.timer);
  try {
    const snapshot = await ask("api/snapshot");
    // Another program or another node answers here now, and may need another page.
    const before = state.snapshot?.status;
    if (before && (before.version !== snapshot.status.version || before.node_id !== snapshot.status.node_id)) location.reload();
    state.snapshot = snapshot;
    state.mesh = model(snapshot, state.mesh);
    head(snapshot);
    draw();
    detail.note(state.mesh);
    await remember(snapshot.sample);
    answered();
  } catch (error) {
    silent(error);
  }
  state.asking = false;
  if (!document.hidden) state.timer = setTimeout(look, EVERY);
}

function answered() {
  state.gone = null;
  document.body.classList.remove("gone");
  say(byId("live"), "Live");
}

function silent(error) {
  state.gone ??= new Date();
  document.body.classList.add("gone");
  const since = state.gone.toLocaleTimeString();
  if (!(error instanceof Silence)) console.error(error);
  const what = error instanceof Silence ? error.message : "This page has failed";
  say(byId("live"), `${what} since ${since}; what is shown is older`);
}

byId("filter").addEventListener("input", draw);
byId("all").addEventListener("click", () => {
  byId("filter").value = "";
  state.nat = null;
  draw();
  byId("filter").focus();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
look();
