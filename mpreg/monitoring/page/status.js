// Asks the node for its status while somebody looks, and shows it.

import { Chart, clock } from "./charts.js";

const EVERY_MS = 2000, SLOWEST_MS = 15000, PATIENCE_MS = 8000;
const $ = (id) => document.getElementById(id);

// --- how things are said ---

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

function count(value) {
  return value < 100000 ? whole.format(value) : short.format(value);
}

function figure(value) {
  return value >= 100 ? count(Math.round(value)) : Number(value.toPrecision(2)).toString();
}

function axis(value) {
  return value >= 1000 ? short.format(value) : Number(value.toPrecision(3)).toString();
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (value < 0.00095) return `${Math.round(value * 1e6)} µs`;
  if (value < 0.9995) return `${Number((value * 1000).toPrecision(value < 0.1 ? 2 : 3))} ms`;
  if (value < 60) return `${Number(value.toPrecision(2))} s`;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const at = units.findIndex(([, size]) => value >= size);
  const [[unit, size], [smaller, less]] = units.slice(at, at + 2);
  const rest = Math.floor((value % size) / less);
  return `${Math.floor(value / size)} ${unit}` + (rest ? ` ${rest} ${smaller}` : "");
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${Number(value.toPrecision(3))} ${units[at]}`;
}

function share(value) {
  return value === null ? "–" : `${Number((value * 100).toPrecision(3))} %`;
}

function when(at, now) {
  if (at === null || at === undefined) return "not yet";
  const ago = now - at;
  return ago < 1 ? "just now" : ago < 86400 ? `${seconds(Math.floor(ago))} ago` : new Date(at * 1000).toLocaleString();
}

// --- charts ---

const charts = [
  new Chart($("chart-writes"), {
    title: "Writes per second", format: axis,
    lines: [
      { key: "operations_per_second", label: "writes", color: "blue", area: true },
      { key: "commits_per_second", label: "commits", color: "amber", dashed: true },
    ],
  }),
  new Chart($("chart-group"), {
    title: "Group size", format: axis,
    lines: [{ key: "group_size", label: "callers in one commit", color: "violet" }],
  }),
  new Chart($("chart-ack"), {
    title: "Ack latency", format: seconds, least: 0.001,
    lines: [
      { key: "ack_p50_seconds", label: "half within", color: "blue" },
      { key: "ack_p99_seconds", label: "99 of 100", color: "amber", dashed: true },
    ],
  }),
  new Chart($("chart-queues"), {
    title: "Messages in queues", format: axis, whole: true,
    lines: [
      { key: "pending", label: "pending", color: "blue", area: true, bridge: 25 },
      { key: "in_flight", label: "in flight", color: "violet", bridge: 25 },
      { key: "delayed", label: "delayed", color: "amber", dashed: true, bridge: 25 },
      { key: "dead", label: "dead", color: "red", bridge: 25 },
    ],
  }),
];

// --- tables ---

// Cells that have not changed are left alone, so that a selection, or a screen reader, stays.
function set(element, text, className = "") {
  if (element.textContent !== text) element.textContent = text;
  if (element.className !== className) element.className = className;
}

// rows: lists of [text, class]; the first is the row's heading where `heads`.
function fill(table, rows, heads = true) {
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, index) => {
    let row = body.rows[index];
    if (!row) {
      row = body.insertRow();
      cells.forEach((_, at) => {
        const cell = document.createElement(heads && at === 0 ? "th" : "td");
        if (heads && at === 0) cell.scope = "row";
        row.append(cell);
      });
    }
    cells.forEach(([text, className], at) => set(row.cells[at], text, className));
  });
}

function number(value, isBad = false) {
  return [count(value), `number${value === 0 ? " zero" : isBad ? " bad" : ""}`];
}

function showQueues(status) {
  const { queues } = status;
  fill($("queue-table"), queues.map((queue) => [
    [queue.name, ""], number(queue.pending), number(queue.in_flight), number(queue.delayed),
    number(queue.dead, true),
    [queue.oldest_seconds === null ? "–" : seconds(Math.round(queue.oldest_seconds)), "number"],
    number(queue.sent), number(queue.acknowledged),
  ]));
  $("no-queues").hidden = queues.length > 0;
  $("queue-table").hidden = queues.length === 0;
  const left = status.queues_in_all - queues.length;
  $("more-queues").hidden = left === 0;
  set($("more-queues"), `And ${count(left)} more with less in them.`, "none");
}

function showCaches(caches) {
  $("caches").hidden = caches.length === 0;
  fill($("cache-table"), caches.map((cache) => [
    [cache.name, ""], [share(cache.hit_share), "number"], number(cache.memory_entries),
    [bytes(cache.memory_bytes), "number"], number(cache.disk_entries), [bytes(cache.disk_bytes), "number"],
    [cache.warm_up, ""],
  ]));
}

function orDash(value) {
  return value === null ? "–" : whole.format(value);
}

function showNodes(status) {
  const { nodes } = status;
  $("nodes").hidden = nodes.length === 0;
  fill($("node-table"), nodes.map((node) => [
    [node.name ?? "not heard of yet", ""],
    [node.state === "self" ? "this one" : node.state, node.state === "away" ? "bad" : ""],
    [node.url, ""], [orDash(node.queues), "number"], [orDash(node.incarnation), "number"],
    [node.heard_at === null ? "–" : when(node.heard_at, status.at), "number"], [node.why, ""],
  ]));
  const shared = status.shared_queues.map((one) => `${one.queue} (${one.nodes.join(", ")})`);
  const left = status.shared_queues_in_all - shared.length;
  $("shared-queues").hidden = shared.length === 0;
  set($("shared-queues"), `At several nodes, each with messages of its own: ${shared.join("; ")}${left > 0 ? `; and ${count(left)} more` : ""}`, "warning");
}

const KINDS = { start: "started", restart: "restarted", restore: "restored" };

function showEvents(status) {
  fill($("event-table"), status.events.map((event) => [
    [when(event.at, status.at), "when"], [KINDS[event.kind] ?? event.kind, "kind"], [event.text, ""],
    [event.seconds === null ? "" : seconds(event.seconds), "number"],
  ]), false);
  status.events.forEach((event, index) => {
    const row = $("event-table").tBodies[0].rows[index];
    row.cells[1].dataset.kind = event.kind;
    row.cells[0].title = new Date(event.at * 1000).toLocaleString();
  });
}

function showFacts(status) {
  const { persistence: kept } = status;
  const failed = kept.participants.filter((one) => one.state === "failed").map((one) => one.name);
  const facts = [
    ["Backend", kept.mode.backend],
    ["A durable ack comes", kept.mode.durable_acks],
    ["On disk", `${bytes(kept.sizes.database_bytes + kept.sizes.value_bytes)}, and ${bytes(kept.sizes.wal_bytes)} of log`],
    ["Last commit", `${whole.format(kept.sequences.committed)}` + (kept.sequences.durable_lag ? `, ${count(kept.sequences.durable_lag)} not fsynced yet` : ", all fsynced")],
    ["Opened", `${when(kept.opened_at, status.at)}, in ${seconds(kept.opening_seconds)}; restored in ${seconds(kept.restore_seconds)}`],
    ["Last checkpoint", when(kept.last_checkpoint.at, status.at)],
    ["Last upkeep", when(kept.last_compaction.at, status.at)],
    ["Writer, reader", `${kept.actors.writer.state}, ${kept.actors.reader.state}; ${kept.actors.writer.restarts + kept.actors.reader.restarts} restarts`],
    ["Damaged items met", count(kept.integrity.damaged_items_met), kept.integrity.damaged_items_met > 0],
    ["Not restored", failed.length ? failed.join(", ") : "nothing", failed.length > 0],
  ];
  const list = $("facts");
  if (list.children.length !== facts.length * 2) {
    list.replaceChildren(...facts.flatMap(() => [document.createElement("dt"), document.createElement("dd")]));
  }
  facts.forEach(([name, text, isBad], index) => {
    set(list.children[2 * index], name);
    set(list.children[2 * index + 1], text, isBad ? "bad" : "");
  });
}

// --- the whole ---

function last(values) {
  return values.length ? values[values.length - 1] : null;
}

function now(id, value, unit = "", isBad = false) {
  const element = $(id);
  if (element.dataset.shown === `${value} ${unit}`) return;
  element.dataset.shown = `${value} ${unit}`;
  element.replaceChildren(value);
  if (unit) element.append(Object.assign(document.createElement("small"), { textContent: unit }));
  element.className = isBad ? "bad" : "";
}

function setState(state) {
  set($("state"), state, "state");
  $("state").dataset.state = state;
}

function show(status) {
  const { node, history, depths } = status;
  document.title = `${node.name} · mpreg`;
  set($("name"), node.name);
  set($("about"), `mpreg ${node.version} on ${node.loop}, up ${seconds(Math.max(1, Math.floor(node.up_seconds)))}`);
  setState(node.state);
  const writes = last(history.operations_per_second);
  now("now-writes", writes === null ? "–" : figure(writes), writes === null ? "" : "a second");
  now("now-group", figure(status.writes.operations_per_fsync), "on average");
  now("now-ack", seconds(last(history.ack_p99_seconds.filter((value) => value !== null))));
  now("now-mailbox", count(status.writes.mailbox_depth), status.writes.waiting_senders ? `+ ${count(status.writes.waiting_senders)} without room` : "", status.writes.waiting_senders > 0);
  now("now-pending", count(depths.pending));
  now("now-dead", count(depths.dead), "", depths.dead > 0);
  for (const chart of charts) chart.show(history);
  showQueues(status);
  showCaches(status.caches);
  showNodes(status);
  showFacts(status);
  showEvents(status);
  set($("updated"), `As of ${clock(status.at)}, asked every ${EVERY_MS / 1000} s while you look`);
}

let token = sessionStorage.getItem("mpreg-token") ?? "";
let wait = EVERY_MS, timer = 0, lostSince = null, asking = false;

async function ask() {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  // A link sends no token: these would only be refused.
  $("guarded").hidden = token !== "";
  const signal = AbortSignal.timeout(PATIENCE_MS);
  const response = await fetch("v1/status", { headers, signal, cache: "no-store" });
  if (response.status === 401 || response.status === 403) return askForToken();
  if (response.status === 503) return notReady(signal);
  if (!response.ok) throw new Error(`it answered ${response.status}`);
  const status = await response.json();
  $("ask").hidden = true;
  $("main").hidden = false;
  found();
  show(status);
  return true;
}

function askForToken() {
  found();
  setState("token needed");
  $("guarded").hidden = true;
  $("main").hidden = true;
  $("ask").hidden = false;
  set($("refused"), token ? "This token is not accepted." : "");
  $("token").focus();
  return false;
}

// It answers, and restores or stops: its health route tells which.
async function notReady(signal) {
  const health = await (await fetch("health/ready", { signal, cache: "no-store" })).json();
  found();
  setState(health.phase);
  const under = health.restore.find((one) => one.state === "restoring");
  const how = under ? `: ${under.name}, ${count(under.done)}${under.total === null ? "" : ` of ${count(under.total)}`} ${under.unit}` : "";
  tell(health.phase === "starting" ? `The node is restoring its state${how}.` : `The node is ${health.phase}.`);
  return true;
}

function tell(text, isBad = false) {
  set($("unreachable"), text, isBad ? "notice bad" : "notice");
  $("unreachable").hidden = false;
  $("main").classList.add("stale");
}

function found() {
  lostSince = null;
  wait = EVERY_MS;
  $("unreachable").hidden = true;
  $("main").classList.remove("stale");
}

function lost(error) {
  lostSince ??= Date.now() / 1000;
  wait = Math.min(SLOWEST_MS, wait * 1.5);
  const why = error.name === "TimeoutError" ? "no answer in time" : error.message.startsWith("it answered") ? error.message : "no connection";
  setState("unreachable");
  tell(`The node cannot be reached since ${clock(lostSince)} (${why}). What is shown is older; this page goes on trying.`, true);
}

async function poll() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  let goOn = true;
  try { goOn = await ask(); } catch (error) { lost(error); } finally { asking = false; }
  if (goOn && !document.hidden) timer = setTimeout(poll, wait);
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  sessionStorage.setItem("mpreg-token", token);
  poll();
});
document.addEventListener("visibilitychange", poll);
poll();
