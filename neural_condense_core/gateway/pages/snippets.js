// The question of the page as code: pure functions of what is asked. The key is never written out.

const KEY = "CONDENSE_KEY";
const quoted = (text) => JSON.stringify(text);

export const NOTES = {
  curl: "The gateway answers; the context is named by its id.",
  python: "The gateway answers; pip install openai.",
  vllm: "vLLM answers, started with --enable-prompt-embeds and the same model; the condensed tokens are fetched from the gateway. Needs this package and openai.",
};

export function content(id, instruction, question) {
  return [
    { type: "text", text: "Text:\n" },
    { type: "condensed_context", id },
    { type: "text", text: `\n\n${asked(instruction, question)}` },
  ];
}

export function asked(instruction, question) { return `${instruction.trim()} ${question.trim()}`.trim(); }

export function snippet(kind, about) { return { curl, python, vllm }[kind](about); }

function curl({ origin, model, id, instruction, question, longest, needsKey }) {
  const parts = content(id, instruction, question).map((part) => `    ${JSON.stringify(part)}`);
  const body = `{\n  "model": ${quoted(model)}, "temperature": 0, "max_tokens": ${longest},\n` +
    `  "messages": [{"role": "user", "content": [\n${parts.join(",\n")}\n  ]}]\n}`;
  const data = body.replaceAll("'", "'\\''");
  const key = needsKey ? `  -H "Authorization: Bearer $${KEY}" \\\n` : "";
  return `curl -s ${origin}/v1/chat/completions \\\n${key}  -H 'Content-Type: application/json' \\\n  -d '${data}'`;
}

function python({ origin, model, id, instruction, question, longest, needsKey }) {
  return [
    ...(needsKey ? ["import os", ""] : []),
    "import openai",
    "",
    `client = openai.OpenAI(base_url="${origin}/v1", api_key=${needsKey ? `os.environ["${KEY}"]` : '"none"'})`,
    ...call(model, `{"type": "condensed_context", "id": "${id}"}`, instruction, question, longest),
  ].join("\n");
}

function vllm({ origin, model, id, instruction, question, longest, needsKey }) {
  return [
    ...(needsKey ? ["import os", ""] : []),
    "import openai",
    "from neural_condense_core.client.gateway import GatewayClient",
    "from neural_condense_core.llm.handoff import to_vllm_chat_part",
    "",
    `with GatewayClient("${origin}"${needsKey ? `, api_key=os.environ["${KEY}"]` : ""}) as gateway:`,
    `    tokens = gateway.tokens("${id}")`,
    'client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")',
    ...call(model, "to_vllm_chat_part(tokens)", instruction, question, longest),
  ].join("\n");
}

function call(model, part, instruction, question, longest) {
  return [
    "content = [",
    '    {"type": "text", "text": "Text:\\n"},',
    `    ${part},`,
    `    {"type": "text", "text": ${quoted(`\n\n${asked(instruction, question)}`)}},`,
    "]",
    "reply = client.chat.completions.create(",
    `    model=${quoted(model)},`,
    '    messages=[{"role": "user", "content": content}],',
    "    temperature=0,",
    `    max_tokens=${longest},`,
    ")",
    "print(reply.choices[0].message.content)",
    "",
  ].join("\n").split("\n");
}
