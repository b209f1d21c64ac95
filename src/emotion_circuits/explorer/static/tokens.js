// Text as coloured tokens, which arrow keys go through; one layer and one emotion are shown at a time.

import { byId, make, options } from "./dom.js";
import { colour, LEAST_RANGE } from "./colours.js";

const ARMS = ["baseline", "steered"];
let layers = [], emotions = [], range = LEAST_RANGE, spans = { baseline: [], steered: [] };

export function begin(text, found) {
  ({ layers, emotions } = found);
  spans = { baseline: [], steered: [] };
  for (const arm of ARMS) byId(`tokens-${arm}`).replaceChildren(make("span", { className: "before", text }));
  const chosen = byId("read-emotion").value;
  options(byId("read-emotion"), emotions.map((e) => [e, e]), chosen);
  const slider = byId("read-layer");
  const fresh = Number(slider.max) !== layers.length - 1;
  slider.max = layers.length - 1;
  if (fresh) slider.value = Math.floor((layers.length - 1) / 2);
  byId("reading").hidden = false;
  byId("token-detail").textContent = "";
  name();
  repaint();
  byId("both-arms").scrollIntoView({ block: "nearest" });
}

/** A token event: a piece of text of this step, and the values of the token before. */
export function add({ arm, index, piece, reading }) {
  const before = spans[arm].find((one) => one.index === index - 1);
  if (reading && before) {
    before.values = reading;
    if (Math.abs(valueOf(before)) > range) repaint();
    else paint(before);
  }
  if (piece === null) return;
  const element = make("span", { className: "token", text: piece, role: "button", tabindex: spans[arm].length ? -1 : 0 });
  const one = { index, piece, element, values: null, arm };
  element.addEventListener("keydown", (event) => walk(event, one));
  element.addEventListener("focus", () => focused(one));
  element.addEventListener("click", () => element.focus());
  spans[arm].push(one);
  byId(`tokens-${arm}`).append(element);
}

/** The whole text of an arm: what the pieces lack of it (half a character at the end) is put behind the last one. */
export function finish({ arm, text }) {
  const own = spans[arm].filter((one) => !one.before);
  const shown = own.map((one) => one.piece).join("");
  if (shown === text || !own.length) return;
  const last = own.at(-1);
  if (text.startsWith(shown)) last.piece += text.slice(shown.length);
  else { // the tokenizer wrote earlier pieces differently in the end
    own.slice(0, -1).forEach((one) => { one.piece = one.element.textContent = ""; });
    last.piece = text;
  }
  last.element.textContent = last.piece;
}

/** The prompt's own tokens, once they are read: the plain text in front becomes coloured tokens too. */
export function addPrompt({ text, spans: ranges, values }) {
  for (const arm of ARMS) {
    const holder = byId(`tokens-${arm}`).querySelector(".before");
    const parts = [];
    let end = 0;
    ranges.forEach(([from, to], place) => {
      const start = Math.max(from, end);
      if (start > end) parts.push(document.createTextNode(text.slice(end, start)));
      const element = make("span", { className: "token", text: text.slice(start, to), role: "button", tabindex: -1 });
      const one = { index: place - ranges.length, piece: text.slice(start, to), element, values: values[place], arm };
      element.addEventListener("keydown", (event) => walk(event, one));
      element.addEventListener("focus", () => focused(one));
      element.addEventListener("click", () => element.focus());
      parts.push(element);
      one.before = true;
      spans[arm].push(one);
      end = Math.max(end, to);
    });
    parts.push(document.createTextNode(text.slice(end)));
    holder.replaceChildren(...parts);
    spans[arm].sort((a, b) => a.index - b.index);
  }
  repaint();
}

function walk(event, one) {
  const own = spans[one.arm], place = own.indexOf(one);
  const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: own.length - 1 }[event.key];
  if (to === undefined || !own[to]) return;
  event.preventDefault();
  own.forEach((other) => other.element.setAttribute("tabindex", "-1"));
  own[to].element.setAttribute("tabindex", "0");
  own[to].element.focus();
}

function chosenLayer() { return Number(byId("read-layer").value); }

function focused(one) {
  if (!one.values) { byId("token-detail").textContent = `“${one.piece}”: not read yet`; return; }
  const here = one.values[chosenLayer()];
  const said = emotions.map((e, i) => `${e} ${here[i] >= 0 ? "+" : "−"}${Math.abs(here[i]).toFixed(1)}`).join(", ");
  byId("token-detail").textContent = `“${one.piece.trim() || one.piece}” at layer ${layers[chosenLayer()]}: ${said}`;
}

function paint(one) {
  if (!one.values) return;
  const value = valueOf(one);
  one.element.style.backgroundColor = colour(value, range);
  one.element.title = `${byId("read-emotion").value} ${value.toFixed(1)}`;
}

function valueOf(one) { return one.values?.[chosenLayer()]?.[emotions.indexOf(byId("read-emotion").value)] ?? 0; }

/** Colours reach from the largest value that is shown, either way, so that both texts can be compared. */
function repaint() {
  const all = ARMS.flatMap((arm) => spans[arm].map((one) => Math.abs(valueOf(one))));
  range = Math.ceil(Math.max(LEAST_RANGE, ...all));
  for (const [id, end] of [["chip-low", -range], ["chip-high", range]]) {
    byId(id).textContent = end < 0 ? `−${range}` : `+${range}`;
    byId(id).style.backgroundColor = colour(end, range);
  }
  for (const arm of ARMS) spans[arm].forEach(paint);
}

function name() {
  const shown = layers[chosenLayer()] ?? "";
  byId("read-layer-name").textContent = String(shown);
  byId("read-layer").setAttribute("aria-valuetext", `layer ${shown}`);
}

export function start() {
  byId("read-layer").addEventListener("input", () => { name(); repaint(); });
  byId("read-emotion").addEventListener("change", repaint);
  repaint();
}
