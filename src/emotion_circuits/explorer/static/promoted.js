// Which next tokens each direction makes likelier and unlikelier, read through the model's own head.

import { byId, complain, fillTable, make, options, say } from "./dom.js";
import { stream } from "./api.js";

let asking = false;

export function useModel(facts) {
  options(byId("promoted-layer"), facts.layers.map((l) => [l, `layer ${l}`]), facts.layers.at(-1));
  byId("promoted-section").hidden = false;
  byId("promoted-scroll").hidden = true;
}

async function show() {
  if (asking) return;
  asking = true;
  complain(null);
  try {
    await stream("promoted", { layer: Number(byId("promoted-layer").value) }, undefined, (said) => {
      if (said.event === "queued") say(`waiting: ${said.ahead} before this one`);
      else if (said.event === "error") complain(said);
      else if (said.event === "promoted") draw(said);
    });
  } catch (error) {
    complain(error);
  } finally {
    asking = false;
  }
}

function draw({ layer, rows }) {
  const cells = rows.map(({ emotion, up, down }) => ({ emotion, up: list(up), down: list(down) }));
  fillTable(byId("promoted"), [["emotion", "emotion"], ["up", "promoted"], ["down", "held back"]], cells, `Next tokens at layer ${layer}, strongest first`);
  byId("promoted-scroll").hidden = false;
  say(`tokens that directions promote at layer ${layer}`);
}

// White space and control characters would be invisible: such tokens are written as JSON.
const visible = (token) => (/^ ?[^\s\p{C}]+$/u.test(token) ? token.trim() : JSON.stringify(token));

function list(tokens) {
  return make("span", { className: "pieces" }, ...tokens.map(({ token, logit }) =>
    make("code", { text: visible(token), title: `${logit >= 0 ? "+" : "−"}${Math.abs(logit).toFixed(2)} logits` })));
}

export function start() {
  byId("promoted-form").addEventListener("submit", (event) => { event.preventDefault(); show(); });
}
