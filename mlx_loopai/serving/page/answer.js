// Asking the server: the request that a conversation becomes, the events of its answer, and where the answer ends.
let served = { model: "", temperature: 0.7, scripts: "", genres: [], writers: [], feedback: false, sees: false };

// What comes before every conversation: the instruction, and the examples of its genre.
function opening(chat) {
  const { system, genre } = chat.settings, chosen = served.genres.find((one) => one.name === genre);
  const instruction = system.trim() || (chosen ? chosen.system_prompt : "");
  return [...(instruction ? [{ role: "system", content: instruction }] : []), ...(chosen ? chosen.examples.flatMap(pair) : [])];
}

// Messages of `chat` for an answer at the end of `turns`; the first `skipped` exchanges are left out.
function messagesOf(chat, turns, goesOn, skipped) {
  const earlier = exchanges(turns.slice(0, -2)).slice(skipped), [request, answer] = turns.slice(-2);
  return [
    ...opening(chat),
    ...earlier.flatMap(pair),
    { role: "user", content: contentOf(request) },
    ...(goesOn ? [{ role: "assistant", content: textOf(answer) }] : []),
  ];
}

// Who answers: a model of the server, and whether its adapter's switch decides.
const writerOf = (name) => served.writers.find((one) => one.name === name) || { model: name, when: "" };

function bodyOf(chat, messages, goesOn, version) {
  const { model, when } = writerOf(version.model), body = { messages, stream: true, stream_options: { include_usage: true } };
  if (goesOn) body.continue_final_message = true;
  if (chat.settings.temperature !== null) body.temperature = chat.settings.temperature;
  if (model) body.model = model;
  if (when && when !== "never") body.adapter_when = when;
  if (chat.settings.scripts) body.scripts = chat.settings.scripts;
  return JSON.stringify(body);
}

class ServerError extends Error {}

// The response to what is asked: `messages(skipped)`, of which the oldest of `most` parts are left out where the context
// is too small; `version` then says how many. `headers` carry the key; a refused key calls `onLocked`.
async function responseTo({ chat, messages, most, goesOn, version, headers, signal, onLocked }) {
  for (let skipped = 0; ; skipped += Math.ceil((most - skipped) / 8)) {
    const body = bodyOf(chat, messages(skipped), goesOn, version);
    const response = await fetch("v1/chat/completions", { method: "POST", headers, body, signal });
    if (response.ok) { version.dropped = skipped; return response; }
    if (response.status === 401) onLocked();
    const { error } = await response.json();
    if (error.code !== "context_length_exceeded" || skipped === most) throw new ServerError(error.message);
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) if (block.startsWith("data: {")) yield JSON.parse(block.slice(6));
  }
}

// Where a text of about `length` characters should end: after the first whole sentence from there on. -1: not yet.
function endNear(text, length) {
  const from = [...text].slice(0, length).join("").length, most = Math.ceil(1.3 * length);
  if (counted(text) < length) return -1;
  const mark = /[.!?…。]["'”’』」)]*(?=\s)|\n/g;
  mark.lastIndex = Math.max(0, from - 1);
  const found = mark.exec(text);
  if (found) return found.index + found[0].trimEnd().length;
  return counted(text) >= most ? text.length : -1;
}

// Writes the answer into `version` as it comes; `onText` is called after each piece. `endOf(text)`: where what was written
// should end, or -1 while it goes on.
async function readAnswer(response, version, endOf, onText) {
  const before = version.text;
  let written = "";
  for await (const event of events(response)) {
    if (event.error) throw new ServerError(event.error.message);
    if (event.usage) version.figures = { ...version.figures, tokens: event.usage.completion_tokens };
    const choice = event.choices[0];
    if (!choice) continue;
    written += choice.delta.content || "";
    const end = endOf(written);
    version.text = before + (end < 0 ? written : written.slice(0, end));
    onText();
    if (end >= 0) { version.end = "reached"; return; }
    if (choice.finish_reason) {
      version.end = choice.finish_reason;
      const { purity, scripts, masked_mass, argmax_masked, tokens_per_s, adapter, sources } = event.mlx_loopai;
      version.figures = { purity, scripts, masked_mass, argmax_masked, tokens_per_s, adapter };
      version.sources = sources || [];
    }
  }
}
