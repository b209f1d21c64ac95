// Browsing a results folder: runs, their answers and tables, arms side by side, and generated texts.

import { byId, complain, fillTable, make, options, say, shown } from "./dom.js";
import { get } from "./api.js";

const MOST_DRAWN = 500;
let runs = [], run = null, arms = [], armsCut = false, page = 0, pages = 0;
const names = (one) => ({ profile: one.profile, model: one.model, experiment: one.experiment, key: one.key });

const guarded = (work) => (...given) => Promise.resolve(work(...given)).catch((error) => complain(error));

async function list() {
  complain(null);
  const found = await get("runs");
  runs = found.runs;
  say(found.found ? `${runs.length} runs` : "the results folder is not there");
  draw();
}

function draw() {
  const wanted = byId("run-filter").value.toLowerCase().split(/\s+/);
  const rows = runs.filter((r) => wanted.every((w) => Object.values(names(r)).concat(r.status).join(" ").toLowerCase().includes(w)));
  fillTable(byId("runs"), [["open", "experiment"], ["model", "model"], ["profile", "profile"], ["status", "status"], ["when", "started"]],
    rows.map((r) => ({ ...r, when: r.started.slice(0, 16).replace("T", " "), open: make("button", {
      type: "button", text: r.experiment, "aria-label": `Open ${r.experiment} of ${r.model} in ${r.profile}, ${r.key}`, onclick: guarded(() => open(r)),
    }) })));
}

async function open(chosen) {
  complain(null);
  run = await get("run", names(chosen));
  byId("run").hidden = false;
  byId("run-heading").textContent = `${run.experiment} · ${run.model} · ${run.profile} · ${run.key} (${run.status})`;
  byId("run-verdicts").replaceChildren(make("ul", {}, ...run.verdicts.map((v) => make("li", { text: v }))));
  byId("run-tables").replaceChildren(...run.tables.map(table));
  byId("arms-section").hidden = !run.observations;
  byId("texts-section").hidden = !run.arms.length;
  if (run.observations) {
    const found = await get("arms", names(run));
    [arms, armsCut] = [found.rows, found.cut];
    drawArms();
  }
  if (run.arms.length) {
    const steps = [...new Set(run.arms.map((a) => a.step))];
    options(byId("texts-step"), steps.map((s) => [s, s]));
    chooseArms();
    byId("texts-search").value = "";
    page = 0;
    await texts();
  }
  byId("run-heading").focus();
}

function table(one) {
  const element = make("table");
  fillTable(element, Object.entries(one.columns), one.rows, one.title);
  return make("div", { className: "scroll", tabindex: 0, role: "region", "aria-label": one.title }, element);
}

function drawArms() {
  const wanted = byId("arms-filter").value.toLowerCase().split(/\s+/);
  const keys = ["emotion", "layer", "strength", "position", "split", "scorer", "arm"];
  const fitting = arms.filter((r) => wanted.every((w) => keys.map((k) => shown(r[k])).join(" ").toLowerCase().includes(w)));
  const rows = fitting.slice(0, MOST_DRAWN);
  const used = keys.filter((k) => arms.some((r) => r[k] !== null));
  const said = `${fitting.length} of ${arms.length} means${armsCut ? ` (and more: ${arms.length} are read)` : ""}`;
  fillTable(byId("arms"), [...used.map((k) => [k, k]), ["mean", "mean"], ["change", "change from baseline"], ["count", "n"]], rows,
    rows.length < fitting.length ? `${said}; the first ${rows.length} are shown: type to see others` : said);
}

function chooseArms() {
  const own = run.arms.filter((a) => a.step === byId("texts-step").value);
  const entries = own.map((a) => [a.arm, `${a.arm} (${a.texts})`]);
  options(byId("texts-arm"), [["", "all arms"], ...entries]);
  options(byId("texts-beside"), [["", "nothing"], ...entries]);
}

async function texts() {
  const step = byId("texts-step").value, search = byId("texts-search").value;
  const chosen = byId("texts-arm").value, beside = byId("texts-beside").value;
  const found = await get("texts", { ...names(run), step, search, page, arm: chosen ? [chosen] : [] });
  pages = found.pages;
  const others = beside ? await companions(step, beside) : new Map();
  byId("texts-count").textContent = found.total ? `${found.total} texts, page ${found.page + 1} of ${found.pages}` : "no text fits";
  byId("texts").replaceChildren(...found.rows.map((row) => text(row, beside, others.get(`${row.prompt} ${row.sample}`))));
  byId("texts-back").disabled = page <= 0;
  byId("texts-next").disabled = page + 1 >= pages;
}

async function companions(step, arm) {
  const found = new Map();
  for (let at = 0, all = 1; at < all; at += 1) {
    const part = await get("texts", { ...names(run), step, page: at, arm: [arm] });
    all = part.pages;
    for (const row of part.rows) found.set(`${row.prompt} ${row.sample}`, row);
  }
  return found;
}

function text(row, beside, other) {
  const one = (arm, written) => make("div", {}, make("h5", { text: arm }), make("p", { text: written || "(nothing)" }));
  const pair = make("div", { className: "pair" }, one(row.condition, row.text));
  if (beside) pair.append(one(beside, other?.text ?? "–"));
  return make("article", { className: "text" }, make("h5", { text: `${row.before || row.prompt} · sample ${row.sample}` }), pair);
}

export function start() {
  byId("reload").addEventListener("click", guarded(list));
  byId("run-filter").addEventListener("input", draw);
  byId("arms-filter").addEventListener("input", drawArms);
  byId("texts-step").addEventListener("change", guarded(() => { chooseArms(); page = 0; return texts(); }));
  for (const id of ["texts-arm", "texts-beside"]) byId(id).addEventListener("change", guarded(() => { page = 0; return texts(); }));
  byId("texts-search").addEventListener("change", guarded(() => { page = 0; return texts(); }));
  byId("texts-back").addEventListener("click", guarded(() => { page -= 1; return texts(); }));
  byId("texts-next").addEventListener("click", guarded(() => { page += 1; return texts(); }));
}

export const show = guarded(list);
