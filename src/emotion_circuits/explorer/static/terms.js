// The emotions to add: sliders, and the same as one line of text. The server reads and writes the grammar.

import { byId, complain, make } from "./dom.js";
import { post } from "./api.js";

let facts = { emotions: [], layers: [], half: 0 };
let terms = [];
let typing;

export function useModel(found) {
  const before = facts.layers;
  facts = found;
  // Another model has other layers: a term stays as deep as it was.
  const deep = (layer) => facts.layers[Math.round((before.indexOf(layer) / Math.max(1, before.length - 1)) * (facts.layers.length - 1))];
  const same = String(before) === String(facts.layers);
  const kept = terms.filter((t) => facts.emotions.includes(t.emotion)).map((t) => ({ ...t, layer: same ? t.layer : deep(t.layer) }));
  terms = kept.length ? kept : facts.emotions.slice(0, 1).map((emotion) => ({ strength: 0.4, emotion, layer: facts.half, unit: "fraction" }));
  draw();
  write();
}

export const expression = () => byId("expression").value.trim();

/** An expression in the text box becomes sliders; returns whether it could be read. */
export async function read() {
  clearTimeout(typing);
  try {
    const found = await post("expression", { expression: expression() });
    terms = found.terms;
    complain(null);
    draw();
    return true;
  } catch (error) {
    complain(error);
    return false;
  }
}

function number(value) { return String(Number(Math.abs(value).toPrecision(12))); }

function write() {
  byId("expression").value = terms.map((t, place) => {
    const sign = t.strength < 0 ? (place ? "- " : "-") : (place ? "+ " : "");
    return `${sign}${number(t.strength)}${t.unit === "fraction" ? "" : t.unit} ${t.emotion} @ L${t.layer}`;
  }).join(" ");
}

function draw() {
  const list = byId("terms");
  list.replaceChildren(...terms.map((term, place) => row(term, place)));
  byId("add-term").disabled = !facts.emotions.length;
}

function row(term, place) {
  const name = `term ${place + 1}`;
  const change = (key, value) => { term[key] = value; write(); };
  const emotion = make("select", { "aria-label": `Emotion of ${name}`, onchange: (e) => change("emotion", e.target.value) },
    ...facts.emotions.map((e) => make("option", { value: e, text: e })));
  emotion.value = term.emotion;
  const limit = term.unit === "fraction" ? 1 : 10;
  const exact = make("input", { type: "number", step: "any", "aria-label": `Strength of ${name}`, value: term.strength });
  const slider = make("input", { type: "range", min: -limit, max: limit, step: limit / 50, "aria-label": `Strength of ${name}, slider`, value: term.strength });
  exact.addEventListener("input", () => { if (exact.value !== "" && Number.isFinite(exact.valueAsNumber)) { slider.value = exact.value; change("strength", exact.valueAsNumber); } });
  slider.addEventListener("input", () => { exact.value = slider.value; change("strength", Number(slider.value)); });
  const layer = make("select", { "aria-label": `Layer of ${name}`, onchange: (e) => change("layer", Number(e.target.value)) },
    ...facts.layers.map((l) => make("option", { value: l, text: `layer ${l}` })));
  layer.value = term.layer;
  const remove = make("button", { type: "button", text: "Remove", "aria-label": `Remove ${name}`, onclick: () => {
    terms.splice(place, 1); draw(); write(); byId("add-term").focus();
  } });
  return make("li", {}, make("div", {}, emotion), make("div", { className: "strength" }, slider), make("div", {}, exact), make("div", {}, layer), remove);
}

export function start() {
  byId("add-term").addEventListener("click", () => {
    const unused = facts.emotions.find((e) => !terms.some((t) => t.emotion === e)) ?? facts.emotions[0];
    terms.push({ strength: terms.length ? -0.2 : 0.4, emotion: unused, layer: terms.at(-1)?.layer ?? facts.half, unit: "fraction" });
    draw();
    write();
    byId("terms").lastElementChild.querySelector("select").focus();
  });
  byId("expression").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(read, 400); });
}
