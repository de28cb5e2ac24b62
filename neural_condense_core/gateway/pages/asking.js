// Asking the gateway: JSON, matrices, and answers as they come. What goes wrong is an Error whose
// message is fit for a person. The key is in this module's memory and nowhere else.

let key = "";

export class WantsKey extends Error {}

export function useKey(text) { key = text.trim(); }

export async function ask(path, { method = "GET", body, type = "application/json", accept = "application/json", signal } = {}) {
  const headers = { Accept: accept };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = type;
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The gateway cannot be reached. Does it still run?");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const message = said.error?.message ?? `the gateway answered ${response.status}`;
  const wait = response.headers.get("Retry-After");
  const text = message + (wait && response.status !== 401 ? ` (in about ${wait} s)` : "");
  throw response.status === 401 ? new WantsKey(text) : new Error(text);
}

export async function json(path, options) { return (await ask(path, options)).json(); }

export function post(path, value, signal) {
  return json(path, { method: "POST", body: JSON.stringify(value), signal });
}

// Yields { text } as it comes and, last, { usage }.
export async function* answer(value, signal) {
  const response = await ask("/v1/chat/completions", {
    method: "POST", accept: "text/event-stream", signal,
    body: JSON.stringify({ ...value, stream: true, stream_options: { include_usage: true } }),
  });
  for await (const event of events(response.body)) {
    if (event === "[DONE]") return;
    const said = JSON.parse(event);
    if (said.error) throw new Error(said.error.message);
    if (said.usage) yield { usage: said.usage };
    const text = said.choices?.[0]?.delta?.content;
    if (text) yield { text };
  }
  throw new Error("The answer broke off.");
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      held += value;
      const parts = held.split("\n\n");
      held = parts.pop();
      for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
