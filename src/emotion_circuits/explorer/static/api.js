// Requests to the server that sent this page, and its streams of events.

export class Refusal extends Error {
  constructor(content) { super(content.error); this.error = content.error; this.fix = content.fix; }
}

async function answered(response) {
  if (response.ok) return response;
  let content = { error: `the server answered ${response.status}`, fix: "reload the page" };
  try { content = await response.json(); } catch { /* no JSON: the sentence above */ }
  throw new Refusal(content);
}

async function ask(path, init) {
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ error: "the server cannot be reached", fix: "start `emotion-circuits explore` again" });
  }
  return answered(response);
}

export async function get(path, query = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) for (const one of [value].flat()) words.append(name, one);
  return (await ask(`api/${path}?${words}`)).json();
}

const json = (content) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(content) });

export async function post(path, content) { return (await ask(`api/${path}`, json(content))).json(); }

/** Call `each` with every event of a stream; an AbortSignal ends it, and the server's work with it. */
export async function stream(path, content, signal, each) {
  const response = await ask(`api/${path}`, { ...json(content), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) each(JSON.parse(part.slice(6)));
  }
}
