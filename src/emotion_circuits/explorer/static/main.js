// Two views, chosen by the part of the address behind #.

import { byId, complain } from "./dom.js";
import * as steer from "./steer.js";
import * as results from "./results.js";

function view() {
  const chosen = location.hash === "#results" ? "results" : "steer";
  for (const name of ["steer", "results"]) {
    byId(`view-${name}`).hidden = name !== chosen;
    if (name === chosen) byId(`to-${name}`).setAttribute("aria-current", "page");
    else byId(`to-${name}`).removeAttribute("aria-current");
  }
  if (chosen === "results") results.show();
}

results.start();
window.addEventListener("hashchange", view);
view();
steer.start().catch(complain);
