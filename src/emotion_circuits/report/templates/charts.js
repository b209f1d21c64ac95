// Draws every chart of the page from the JSON beside it, and fits it to the width it has.
// No eval: expressions are interpreted (ast), so the page's policy can forbid eval and anything from the network.
const loaderThatFetchesNothing = {
  load: () => Promise.reject(new Error("a report loads nothing")),
  sanitize: () => Promise.reject(new Error("a report links nowhere")),
  http: () => Promise.reject(new Error("a report loads nothing")),
  file: () => Promise.reject(new Error("a report loads nothing")),
};
const options = {
  mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false, hover: false,
  loader: loaderThatFetchesNothing, tooltip: { theme: "report", disableDefaultStyle: true },
};

const AXIS = 72, CHARACTER = 7, SYMBOL = 40, LONGEST = 250;  // CSS pixels, as generous as a label may need

// As many columns as fit by the longest name. Vega would take an expression of its width here, but it lays the legend
// out again after it has made room for it, and what does not fit then is cut off.
function legends(part, width) {
  for (const channel of Object.values(part.encoding || {})) {
    const names = channel && channel.legend && channel.scale && channel.scale.domain;
    if (!Array.isArray(names)) continue;
    const widest = Math.min(LONGEST, CHARACTER * Math.max(1, ...names.map((name) => String(name).length))) + SYMBOL;
    channel.legend.columns = Math.max(1, Math.floor((width - AXIS) / widest));
  }
  for (const layer of part.layer || []) legends(layer, width);
  if (part.spec) legends(part.spec, width);
}

function fitted(spec, width) {
  const copy = structuredClone(spec);
  const fit = (spec.usermeta && spec.usermeta.report) || {};
  const narrow = width < 520;
  if (fit.panels) {
    const axis = fit.panels === 1 ? 24 : 64, gap = 22;
    const columns = Math.max(1, Math.min(fit.panels, Math.floor((width - axis) / 200)));
    copy.columns = columns;
    copy.spec.width = Math.max(120, Math.floor((width - axis - gap * (columns - 1)) / columns));
  }
  const config = copy.config;
  const panel = fit.panels ? copy.spec.width : width;
  config.axisXQuantitative = { tickCount: Math.max(3, Math.min(10, Math.floor(panel / 70))) };
  config.legend = { ...config.legend, columns: Math.max(1, Math.floor(width / 150)) };
  config.axisY = { ...config.axisY, labelLimit: narrow ? 110 : 240, titleLimit: fit.panels ? 145 : 250 };
  legends(copy, width);
  return copy;
}

function drawIn(frame) {
  const chart = frame.querySelector(".chart");
  const spec = JSON.parse(document.getElementById(chart.dataset.spec).textContent);
  const fit = (spec.usermeta && spec.usermeta.report) || {};
  if (fit.min_width) chart.style.minWidth = `${fit.min_width}px`;
  if (fit.max_width) chart.style.maxWidth = `${fit.max_width}px`;
  let drawn = 0, view = null;
  return async () => {
    const width = chart.clientWidth;
    if (!width || Math.abs(width - drawn) < 2) return;
    drawn = width;
    try {
      const result = await window.vegaEmbed(chart, fitted(spec, width), options);
      if (view) view.finalize();
      view = result.view;
      // The chart element describes the figure; Vega's own roles inside would describe every mark again.
      chart.querySelector("svg").setAttribute("aria-hidden", "true");
    } catch (error) {
      chart.textContent = document.getElementById("draw-failed").content.textContent;
      console.error(error);
    }
    // A frame that scrolls must be reachable by keyboard; one that does not should not cost a stop.
    if (frame.scrollWidth > frame.clientWidth + 1) {
      frame.tabIndex = 0;
      frame.setAttribute("role", "group");
      frame.setAttribute("aria-label", chart.getAttribute("aria-label"));
    } else frame.removeAttribute("tabindex");
  };
}

for (const frame of document.querySelectorAll(".chart-frame")) {
  const draw = drawIn(frame);
  let timer;
  await draw();
  new ResizeObserver(() => { clearTimeout(timer); timer = setTimeout(draw, 120); }).observe(frame);
}
document.documentElement.dataset.charts = "drawn";
