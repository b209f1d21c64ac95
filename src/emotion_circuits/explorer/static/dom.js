// Elements without markup: every text of a model or a file enters the page as text.

export const byId = (id) => document.getElementById(id);

/** An element with properties (class, text, on…, other attributes) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name === "className" ? "class" : name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

export function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => make("option", { value, text })));
  if (chosen !== undefined && entries.some(([value]) => String(value) === String(chosen))) select.value = chosen;
}

/** Fill a table: `columns` are [key, heading]; cells are texts, numbers or elements. */
export function fillTable(table, columns, rows, caption) {
  const number = (value) => typeof value === "number";
  const numeric = new Set(columns.map(([key]) => key).filter((key) => rows.some((row) => number(row[key]))));
  const head = make("tr", {}, ...columns.map(([key, text]) => make("th", { scope: "col", text, className: numeric.has(key) && "number" })));
  const body = rows.map((row) => make("tr", {}, ...columns.map(([key]) => {
    const value = row[key];
    const content = value instanceof Node ? value : shown(value);
    const cell = make("td", { className: numeric.has(key) ? "number" : content.length > 60 && "long" });
    cell.append(content);
    return cell;
  })));
  table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  if (caption) table.prepend(make("caption", { text: caption }));
}

export function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "object") return JSON.stringify(value);
  return String(value);
}

export function say(text) { byId("status").textContent = text; }

export function complain(error) {
  const box = byId("error");
  box.textContent = error ? (error.fix ? `${error.error}\n→ ${error.fix}` : String(error.error ?? error)) : "";
}
