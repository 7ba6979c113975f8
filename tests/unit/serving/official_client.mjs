// What OpenAI's own JavaScript client reads of a server: node official_client.mjs FOLDER_OF_NODE_MODULES URL
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, url] = process.argv.slice(2);
const { default: OpenAI } = await import(pathToFileURL(createRequire(folder + "/").resolve("openai")));
const client = new OpenAI({ baseURL: url + "/v1", apiKey: "none", maxRetries: 0 });
const asked = { model: "nano", messages: [{ role: "user", content: "한국의 수도는?" }], temperature: 0, max_tokens: 12 };

const models = [];
for await (const model of client.models.list()) models.push(model.id);
const whole = await client.chat.completions.create({ ...asked, logprobs: true, top_logprobs: 2 });
let streamed = "", usage = null;
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
const several = await client.chat.completions.create({ ...asked, n: 2, temperature: 1, seed: 3 });
const parts = await client.chat.completions.create({
  ...asked, messages: [{ role: "user", content: [{ type: "text", text: "한국의 수도는?" }] }],
});
const text = await client.completions.create({ model: "nano", prompt: "옛날에", temperature: 0, max_tokens: 4 });
const vectors = await client.embeddings.create({ model: "counts", input: ["가", "나나"] });
const refused = await client.chat.completions.create({ ...asked, model: "gpt" }).catch((error) => error);

console.log(JSON.stringify({
  models,
  whole: whole.choices[0].message.content,
  finish: whole.choices[0].finish_reason,
  chances: whole.choices[0].logprobs.content.map((one) => one.top_logprobs.length),
  streamed,
  tokens: usage.completion_tokens,
  several: several.choices.map((one) => one.message.content),
  parts: parts.choices[0].message.content,
  text: text.choices[0].text,
  vectors: vectors.data.map((one) => one.embedding.map((number) => Math.round(number * 1e5) / 1e5)),
  refused: [refused.status, refused.code],
}));
