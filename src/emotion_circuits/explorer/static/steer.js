// Choosing a model, writing with and without steering, cancelling, and taking the command along.

import { byId, complain, fillTable, make, options, say } from "./dom.js";
import { get, stream } from "./api.js";
import * as promoted from "./promoted.js";
import * as terms from "./terms.js";
import * as tokens from "./tokens.js";

let running = null, loaded = null, command = "";

export async function refresh() {
  const state = await get("state");
  byId("place").textContent = state.found ? `results: ${state.results}` : `the folder ${state.results} is not there`;
  const entries = state.choices.map((c) => [JSON.stringify([c.model, c.profile]), `${c.name} · ${c.profile}`]);
  // A folder that is away for a moment does not empty the list.
  if (state.found || !byId("model").options.length) options(byId("model"), entries, byId("model").value);
  byId("load").disabled = !byId("model").options.length;
  if (!byId("model").options.length && !state.loaded) say("No fitted directions here yet. Run: emotion-circuits study quickstart");
  else if (!state.loaded && !running) say("Choose a model and press Load: once, neutral texts are read to calibrate the colours.");
  // While a model is being loaded this answer may be older than the request: it names the model that goes.
  if (state.loaded && !loaded && !running) useModel(state.loaded);
}

function useModel(facts) {
  loaded = facts;
  terms.useModel(facts);
  promoted.useModel(facts);
  byId("seed").value = facts.seed;
  say(`${facts.model} is ready: ${facts.layers.length} layers, ${facts.emotions.join(", ")}`);
  for (const notice of facts.notices ?? []) complain({ error: notice });
  busy(false);
}

function busy(is) {
  byId("go").disabled = is || !loaded;
  byId("load").disabled = is || !byId("model").options.length;
  byId("cancel").disabled = !is;
}

async function listen(path, content, each, left = "cancelled") {
  complain(null);
  running = new AbortController();
  busy(true);
  try {
    await stream(path, content, running.signal, (event) => {
      if (event.event === "queued") say(`waiting: ${event.ahead} before this one`);
      else if (event.event === "error") { complain(event); say("stopped by an error"); }
      else if (event.event === "cancelled") say("cancelled");
      else each(event);
    });
  } catch (error) {
    if (error.name === "AbortError") say(left);
    else { complain(error); say("stopped by an error"); }
  } finally {
    running = null;
    busy(false);
  }
}

async function load(event) {
  event.preventDefault();
  const [model, profile] = JSON.parse(byId("model").value);
  loaded = null;
  await listen("load", { model, profile }, (said) => {
    if (said.event === "loading") say(`loading ${said.model} …`);
    if (said.event === "calibrating") say(`reading neutral texts to calibrate the colours: ${said.read} of ${said.texts} …`);
    if (said.event === "loaded") useModel(said);
  });
  if (!loaded) await keep().catch(complain);
}

/** A refused change leaves the model before it in memory, unless it had to go: what is true is asked of the server. */
async function keep() {
  const state = await get("state");
  if (!state.loaded) return;
  loaded = state.loaded;
  busy(false);
  say(`${loaded.model} stays in memory`);
}

function request() {
  return {
    text: byId("text").value, expression: terms.expression(), max_new_tokens: Number(byId("tokens").value),
    temperature: Number(byId("temperature").value), top_p: Number(byId("top-p").value), seed: Number(byId("seed").value),
  };
}

async function write(event) {
  event.preventDefault();
  if (running || !loaded) return;
  const asked = request();
  byId("command").hidden = true;
  byId("damage-section").hidden = true;
  let first = null;
  say("writing …");
  await listen("steer", asked, (said) => {
    if (said.event === "start") {
      tokens.begin(asked.text, said);
      command = said.command;
      byId("copy").disabled = false;
      soFar = {};
    } else if (said.event === "token") {
      tokens.add(said);
      repeated(said);
      if (first === null && said.arm === "steered") { first = said.ms; say(`writing … first token after ${Math.round(first)} ms`); }
    } else if (said.event === "text") tokens.finish(said);
    else if (said.event === "prompt") tokens.addPrompt(said);
    else if (said.event === "damage") damage(said);
    else if (said.event === "done") say(`done in ${said.seconds.toFixed(1)} s`);
  }, "cancelled; what was written stays");
}

let soFar = {};

/** While a text is written, repetition is the measure that is known already. */
function repeated({ arm, rep4 }) {
  if (rep4 === null) return;
  soFar[arm] = rep4;
  const share = (name) => (soFar[name] === undefined ? "–" : `${Math.round(100 * soFar[name])} %`);
  byId("damage-section").hidden = false;
  byId("damage-whole").hidden = true;
  byId("damage-verdict").className = "";
  byId("damage-verdict").textContent = `So far, repeated 4-grams: ${share("baseline")} without steering, ${share("steered")} steered.`;
}

function damage({ ok, said, measures }) {
  byId("damage-section").hidden = byId("damage-whole").hidden = false;
  const verdict = byId("damage-verdict");
  verdict.className = ok ? "good" : "bad";
  verdict.textContent = said;
  const limit = (m) => m.ok === null ? m.limit
    : make("span", { className: m.ok ? "good" : "bad", text: `${m.ok ? "kept" : "outside"}: ${m.limit}` });
  const rows = measures.map((m) => ({ ...m, limit: limit(m) }));
  fillTable(byId("damage"), [["measure", "measure"], ["baseline", "without"], ["steered", "steered"], ["change", "change"], ["limit", "limit"]], rows);
}

async function copy() {
  byId("command").textContent = command;
  byId("command").hidden = false;
  try {
    await navigator.clipboard.writeText(command);
    say("The command is in the clipboard.");
  } catch {
    say("The command is below; the browser did not allow to copy it.");
  }
}

export function start() {
  terms.start();
  tokens.start();
  promoted.start();
  byId("model-form").addEventListener("submit", load);
  byId("steer-form").addEventListener("submit", write);
  byId("cancel").addEventListener("click", () => running?.abort());
  byId("copy").addEventListener("click", copy);
  byId("model").addEventListener("focus", () => { if (!running) refresh().catch(complain); });
  return refresh();
}
