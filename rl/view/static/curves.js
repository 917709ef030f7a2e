// Curves of the chosen runs. Rows of metrics.jsonl are asked for from where the last answer ended, so curves grow while a
// run goes on. The address holds what is chosen: run, stage, across, smooth, add, flip.

import { draw } from "./plot.js";

const EVERY_MS = 2000;
const box = document.getElementById("charts");
const live = document.getElementById("live");
const field = (name) => document.getElementById(name);
// A title, and the metrics under it: names, or all that begin with a prefix (one line each, or a chart each when several
// runs are chosen).
const CHARTS = [
  { title: "Reward", keys: ["reward/mean"] },
  { title: "Reward by family", prefix: "reward/family/" },
  { title: "Outcome by family", prefix: "outcome/family/" },
  { title: "Sampled tokens per episode", keys: ["length/sampled_mean"] },
  { title: "Length by family", prefix: "length/family/" },
  { title: "Entropy, nats per token", keys: ["policy/entropy"] },
  { title: "Mismatch of sampler and learner, nats", keys: ["mismatch/max", "mismatch/mean"], log: true },
  { title: "Tokens per second", keys: ["rollout/tokens_per_s", "learner/tokens_per_s"] },
  { title: "Gradient norm", keys: ["learner/grad_norm"] },
  { title: "Groups without a gradient", keys: ["group/zero_variance"] },
  { title: "Masked trajectories", keys: ["failure/total"] },
  { title: "Seconds per step", keys: ["time/step_s", "time/rollout_s", "time/learner_s"] },
];
const GENERIC = 12; // charts of a stage that has none of these
const meanings = JSON.parse(box?.dataset.meanings || "{}");
const runs = new Map(); // name → {cursor, rows: Map of "stage step" → row}

const chosen = () => [...document.querySelectorAll('#runs input[name="run"]:checked')].map((one) => one.value);
const all = (name) => new URLSearchParams(location.search).getAll(name);

function remember(changes) {
  const now = new URLSearchParams(location.search);
  for (const [name, values] of Object.entries(changes)) {
    now.delete(name);
    for (const value of [values].flat()) if (value !== "") now.append(name, value);
  }
  history.replaceState(null, "", `?${now}`);
}

async function refresh(name) {
  const run = runs.get(name) ?? { cursor: "", rows: new Map() };
  runs.set(name, run);
  let changed = false;
  for (let more = true; more; ) {
    const answer = await fetch(`/api/metrics?${new URLSearchParams({ run: name, cursor: run.cursor })}`);
    if (!answer.ok) return changed;
    const piece = await answer.json();
    if (piece.fresh && run.rows.size) run.rows.clear(), (changed = true);
    for (const row of piece.rows) run.rows.set(`${row.stage} ${row.step}`, row); // of a repeated step the last counts
    changed ||= piece.rows.length > 0;
    run.cursor = piece.cursor;
    more = piece.more;
  }
  return changed;
}

function meaning(key) {
  if (meanings[key]) return meanings[key];
  const parts = key.split("/");
  const like = Object.keys(meanings).find((name) => {
    const own = name.split("/");
    return own.length === parts.length && own.every((part, i) => part === parts[i] || part.startsWith("{"));
  });
  return like ? meanings[like] : "";
}

/** {chart id, title, lines} of everything that is shown now. */
function charts(names, stage, across) {
  const rows = new Map(names.map((name) => [name, [...runs.get(name).rows.values()].filter((r) => r.stage === stage)]));
  const keys = new Set();
  for (const own of rows.values()) for (const row of own) for (const key in row) keys.add(key);
  for (const key of ["stage", "step", "time"]) keys.delete(key);
  fill(field("add"), [["", "a metric…"], ...[...keys].sort().map((key) => [key, key])], "");
  const wanted = [];
  const add = (title, own, log) => {
    const there = own.filter((key) => keys.has(key));
    if (there.length && !wanted.some((one) => one.title === title)) wanted.push({ title, keys: there, log });
  };
  for (const chart of CHARTS) {
    const own = chart.keys ?? [...keys].filter((key) => key.startsWith(chart.prefix)).sort();
    if (chart.prefix && names.length > 1)
      for (const key of own) add(chart.title.replace("by family", `· ${key.slice(chart.prefix.length)}`), [key]);
    else if (!chart.prefix || own.length > 1) add(chart.title, own, chart.log);
  }
  if (!wanted.length) for (const key of [...keys].sort().slice(0, GENERIC)) add(key, [key]);
  for (const key of all("add")) add(key, [key]);

  return wanted.map(({ title, keys: own, log }) => ({
    id: own[0],
    title,
    hint: own.map((key) => `${key}: ${meaning(key)}`).join("\n"),
    log: Boolean(log) !== all("flip").includes(own[0]),
    removable: all("add").includes(own[0]),
    lines: names.flatMap((name, r) =>
      own.map((key, k) => ({
        label: label(name, key, names.length, own),
        color: names.length > 1 ? r % 8 : k % 8,
        dash: names.length > 1 ? k % 4 : 0,
        points: points(rows.get(name), key, across),
      })),
    ),
  }));
}

function label(name, key, count, own) {
  const short = own.every((one) => one.split("/").slice(0, -1).join() === own[0].split("/").slice(0, -1).join())
    ? key.split("/").at(-1)
    : key.split("/")[0];
  if (count === 1) return own.length > 1 ? short : "";
  return own.length > 1 ? `${name} ${short}` : name;
}

function points(rows, key, across) {
  const begin = rows.length ? rows[0].time : 0;
  const found = rows
    .filter((row) => typeof row[key] === "number")
    .map((row) => [across === "time" ? (row.time - begin) / 60 : row.step, row[key]]);
  return found.sort((a, b) => a[0] - b[0]);
}

function fill(select, options, value) {
  if (document.activeElement === select) return; // it may be open
  const told = JSON.stringify(options);
  if (select.told !== told) {
    select.told = told;
    select.replaceChildren(...options.map(([v, text]) => new Option(text, v)));
  }
  select.value = value;
}

function show() {
  const names = chosen().filter((name) => runs.has(name));
  const stages = [...new Set(names.flatMap((name) => [...runs.get(name).rows.values()].map((row) => row.stage)))];
  const asked = all("stage")[0];
  const stage = stages.includes(asked) ? asked : (stages.find((one) => one.startsWith("grpo")) ?? stages.at(-1) ?? "");
  fill(field("stage"), stages.map((one) => [one, one]), stage);
  field("across").value = all("across")[0] === "time" ? "time" : "step";
  field("smooth").value = all("smooth")[0] ?? "1";
  if (!field("smooth").value) field("smooth").value = "1";
  field("tools").hidden = !stages.length;
  const across = field("across").value;
  draw(box, charts(names, stage, across), {
    smooth: Number(field("smooth").value),
    unit: across === "time" ? "minutes" : "step",
    empty: chosen().length ? "No metrics yet: they come with the first step of a stage." : "Choose a run to see its curves.",
    flip: (id) => {
      const now = all("flip");
      remember({ flip: now.includes(id) ? now.filter((one) => one !== id) : [...now, id] });
      show();
    },
    remove: (id) => {
      remember({ add: all("add").filter((one) => one !== id) });
      show();
    },
  });
}

async function poll(names = chosen()) {
  const changed = await Promise.all(names.map(refresh));
  if (changed.some(Boolean) || !box.childElementCount) show();
}

async function list() {
  const answer = await fetch("/api/runs");
  if (!answer.ok) return;
  const found = await answer.json();
  const lines = new Map([...document.querySelectorAll("#runs tr[data-run]")].map((line) => [line.dataset.run, line]));
  if (found.some((run) => !lines.has(run.name))) return location.reload(); // the address has all that is chosen
  for (const run of found)
    for (const cell of lines.get(run.name).querySelectorAll("[data-cell]")) {
      cell.textContent = run[cell.dataset.cell];
      if (cell.dataset.cell === "state") cell.className = `state ${run.state}`;
    }
}

async function forever() {
  for (let beat = 1; ; beat++) {
    await new Promise((done) => setTimeout(done, EVERY_MS));
    if (document.hidden) continue;
    try {
      await poll();
      if (beat % 3 === 0) await list();
      live.textContent = "";
    } catch {
      live.textContent = "no answer from rl-view: is it still running?";
    }
  }
}

if (box) {
  for (const input of document.querySelectorAll('#runs input[name="run"]'))
    input.addEventListener("change", async () => {
      remember({ run: chosen() });
      await poll();
      show();
    });
  for (const name of ["stage", "across", "smooth"])
    field(name).addEventListener("change", () => {
      const plain = { across: "step", smooth: "1" }[name];
      remember({ [name]: field(name).value === plain ? "" : field(name).value });
      show();
    });
  field("add").addEventListener("change", () => {
    const key = field("add").value;
    if (key) remember({ add: [...new Set([...all("add"), key])] });
    field("add").blur();
    show();
    [...box.querySelectorAll("figure")].at(-1)?.scrollIntoView({ block: "nearest" });
  });
  let width = box.clientWidth;
  new ResizeObserver(() => {
    if (box.clientWidth !== width) requestAnimationFrame(show);
    width = box.clientWidth;
  }).observe(box);
  poll().then(forever, forever);
}
