// What stands on the page, and what its buttons and keys do.
const at = (id) => document.getElementById(id);
// running: what is being written, { chat, stop } with the turn of an answer, or with what grows in the draft. It belongs to
// its own conversation, whichever is shown.
let chat = newChat(), running = null;
const SAVE_MS = 1000;

function make(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function button(text, action) {
  const element = make("button", "", text);
  element.type = "button";
  element.addEventListener("click", action);
  return element;
}

function label() {
  document.documentElement.lang = language;
  for (const id of ["send", "stop", "new", "empty", "markdown", "rows", "keys"]) at(id).textContent = word(id);
  const labels = { genre: "genre", length: "size", scripts: "script", temperature: "temperature", system: "system", answering: "answering" };
  for (const [id, name] of Object.entries(labels)) at(id + "-label").textContent = word(name);
  at("chats-title").textContent = word("chats");
  at("language").textContent = word("other");
  at("list").setAttribute("aria-label", word("list"));
  at("add").setAttribute("aria-label", word("add"));
  at("add").title = word("add");
  for (const id of ["prompt", "key"]) { at(id).placeholder = word(id); at(id).setAttribute("aria-label", word(id)); }
  labelDraft();
  drawSettings();
  draw();
}

// The list of conversations

function save(one) {
  if (one.removed) return;
  one.changed = Date.now();
  const written = kept.write(PREFIX + one.id, one);
  at("notice").hidden = written;
  if (!written) at("notice").textContent = word("full");
  if (one === chat) kept.write(LAST, one.id);
}

function show(other) {
  if (running && running.chat !== other) running.stop.abort();
  chat = other;
  kept.write(LAST, chat.id);
  drawSettings();
  draw();
}

function remove(one, asked) {
  if (asked.textContent !== word("sure")) { asked.textContent = word("sure"); return; }
  // The one that is shown, or being written, is another object than the list's.
  for (const open of [chat, running?.chat]) if (open?.id === one.id) open.removed = true;
  kept.remove(PREFIX + one.id);
  if (one.id === chat.id) show(newChat());
  else drawList();
}

function drawList() {
  at("chats").replaceChildren(...kept.chats().map((one) => {
    const line = document.createElement("li");
    const open = button(titleOf(one), () => { listing(false); if (one.id !== chat.id) show(kept.read(PREFIX + one.id) || newChat()); });
    open.classList.add("open");
    open.title = new Date(one.changed).toLocaleString(language);
    if (one.id === chat.id) open.setAttribute("aria-current", "true");
    const gone = button("×", () => remove(one, gone));
    gone.setAttribute("aria-label", word("remove") + ": " + titleOf(one));
    line.append(open, gone);
    return line;
  }));
}

function listing(open) {
  document.body.classList.toggle("listing", open);
  at("list").setAttribute("aria-expanded", String(open));
}

// The conversation

function draw() {
  const focused = [...document.querySelectorAll("main button, #draft button")].indexOf(document.activeElement);
  at("turns").replaceChildren(...chat.turns.map((turn, place) => (turn.role === "user" ? asked(turn, place) : answered(turn, place))));
  at("empty").hidden = chat.turns.length > 0;
  at("send").hidden = running !== null;
  at("stop").hidden = running === null;
  drawDraft();
  drawList();
  // What was pressed was drawn anew: whoever goes by the keyboard stays where they were.
  if (focused >= 0 && document.activeElement === document.body) document.querySelectorAll("main button, #draft button")[focused]?.focus();
}

function asked(turn, place) {
  const article = make("article", "asked", "");
  article.append(make("p", "", turn.content));
  if (turn.images?.length) article.append(gallery(turn.images));
  if (!running) {
    const change = () => edit(article, turn.content, "ask", (text) => { show(fork(chat, place)); ask(text, turn.images); });
    article.append(actions(button(word("edit"), change), button(word("copy"), () => copy(turn.content))));
  }
  return article;
}

function answered(turn, place) {
  const article = make("article", "answer", ""), version = shownOf(turn), last = place === chat.turns.length - 1;
  const writing = running !== null && running.turn === turn;
  if (turn.beside && !running) return compared(turn);
  article.append(make("p", writing ? "writing" : "", version.text));
  article.setAttribute("aria-busy", String(writing));
  if (writing) return article;
  const line = make("p", version.error ? "figures failed" : "figures", figures(version));
  line.title = technical(version.figures);
  article.append(line);
  if (version.sources?.length) article.append(sources(version.sources));
  if (!running) article.append(actions(...versions(turn), ...votes(turn), ...choices(article, turn, last)));
  return article;
}

function choices(article, turn, last) {
  const version = shownOf(turn), found = [];
  const change = (text) => { judgeEdit(turn, version.text, text); Object.assign(version, { text, end: "edited", error: "", figures: null }); save(chat); draw(); };
  if (version.text) found.push(button(word("copy"), () => copy(version.text)), button(word("edit"), () => edit(article, version.text, "save", change)));
  if (last) found.push(button(word("again"), () => again(turn)));
  if (last && version.text) found.push(button(word("beside"), () => beside(turn)));
  if (last && version.text) found.push(button(word("more"), () => write(turn, true)));
  if (version.text) found.push(button(word("todraft"), () => intoDraft(version.text)));
  return found;
}

function versions(turn) {
  if (turn.versions.length < 2) return [];
  const step = (by) => { turn.shown += by; save(chat); draw(); };
  const back = button("‹", () => step(-1)), on = button("›", () => step(1));
  back.setAttribute("aria-label", word("earlier"));
  on.setAttribute("aria-label", word("later"));
  back.disabled = turn.shown === 0;
  on.disabled = turn.shown === turn.versions.length - 1;
  return [back, make("span", "", turn.shown + 1 + "/" + turn.versions.length), on];
}

function actions(...buttons) {
  const line = make("div", "actions", "");
  line.append(...buttons);
  return line;
}

function sources(found) {
  const list = make("details", "sources", "");
  list.append(make("summary", "", word("sources") + " " + found.length));
  list.append(...found.map((one) => make("p", "", one.file + ":" + one.line + " — " + one.text)));
  return list;
}

const percent = (share) => (100 * share).toFixed(1) + " %";

function figures(version) {
  const size = (text) => counted(text).toLocaleString(language) + word("characters");
  const parts = [size(version.text) + " (" + word("unspaced") + " " + size(version.text.replace(/\s/g, "")) + ")"];
  if (version.end && version.end !== "stop" && !version.error) parts.push(word(version.end));
  if (served.writers.length > 1) parts.unshift(answeredBy(version));
  if (version.dropped) parts.push(word("dropped") + " " + version.dropped);
  if (version.figures?.purity !== undefined) parts.push(word("purity") + " " + percent(version.figures.purity));
  if (version.error) parts.push(word("failed") + ": " + version.error);
  return parts.join(" · ");
}

// Where a switch decided, also what it decided.
function answeredBy({ model, figures }) {
  const decided = writerOf(model || usual()).when === "auto" && typeof figures?.adapter === "boolean";
  return called(model) + (decided ? " → " + word(figures.adapter ? "always" : "never") : "");
}

function technical(own) {
  if (own?.purity === undefined) return "";
  const constrained = own.scripts !== "off";
  const parts = constrained ? [word("masked") + " " + percent(own.masked_mass), word("overruled") + " " + percent(own.argmax_masked)] : [];
  if (own.tokens) parts.push(own.tokens + " " + word("tokens"));
  return [...parts, own.tokens_per_s.toFixed(1) + " " + word("speed")].join(" · ");
}

function edit(article, text, verb, done) {
  const field = document.createElement("textarea");
  field.value = text;
  field.setAttribute("aria-label", word("edit"));
  const close = button(word("cancel"), draw);
  const keep = button(word(verb), () => { const changed = field.value.trim(); if (changed) done(changed); });
  field.addEventListener("keydown", (event) => { if (event.key === "Escape") draw(); });
  article.replaceChildren(field, actions(keep, close));
  field.focus();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP from another machine a page has no clipboard; a selection can still be copied.
    const field = document.body.appendChild(make("textarea", "unseen", ""));
    field.value = text;
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  say(word("copied"));
}

// Heard by screen readers: a whole answer once, never its tokens.
function say(text) { at("status").textContent = text; }

// Answers

function ask(text, images = []) {
  const turn = { role: "assistant", versions: [{ text: "", end: "", model: chat.settings.model }], shown: 0 };
  chat.turns.push(images.length ? { role: "user", content: text, images } : { role: "user", content: text }, turn);
  write(turn, false);
}

function again(turn) {
  if (shownOf(turn).text) turn.shown = turn.versions.push({ text: "", end: "", model: chat.settings.model }) - 1;
  write(turn, false);
}

function headers() {
  const key = at("key").value, found = { "Content-Type": "application/json" };
  if (key) found.Authorization = "Bearer " + key;
  return found;
}

async function write(turn, goesOn) {
  const own = chat, version = shownOf(turn), before = version.text, length = own.settings.length;
  running = { chat: own, turn, stop: new AbortController() };
  Object.assign(version, { error: "", end: "left", figures: null });
  save(own);
  draw();
  say(word("writing"));
  at("turns").lastChild.scrollIntoView({ block: "end" });
  let saved = Date.now();
  const onText = () => {
    if (Date.now() - saved > SAVE_MS) { saved = Date.now(); save(own); }
    if (own === chat) showText(version.text);
  };
  const messages = (skipped) => messagesOf(own, own.turns, goesOn, skipped), most = exchanges(own.turns.slice(0, -2)).length;
  await written({ chat: own, messages, most, goesOn, version }, (text) => (length ? endNear(text, length) : -1), onText);
  save(own);
  draw();
  if (own !== chat) return;
  say(version.text.slice(goesOn ? before.length : 0) + "\n" + (version.error || ""));
  if (document.activeElement === document.body) at("prompt").focus();
}

// Has `asked.version` written, until it ends, fails or is stopped; nothing runs any more then.
async function written(asked, endOf, onText) {
  const { version } = asked, { stop } = running;
  try {
    const response = await responseTo({ ...asked, headers: headers(), signal: stop.signal, onLocked: () => { at("key").hidden = false; } });
    await readAnswer(response, version, endOf, onText);
  } catch (error) {
    if (error.name === "AbortError") version.end = "stopped";
    else version.error = error instanceof ServerError ? error.message : word("lost");
  }
  stop.abort(); // an answer that reached its length is still being written over there
  running = null;
}

function showText(text) {
  const paragraph = document.querySelector("#turns .writing");
  const following = window.innerHeight + window.scrollY > document.body.scrollHeight - 160;
  paragraph.textContent = text;
  if (following) window.scrollTo(0, document.body.scrollHeight);
}

// What a person does

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("prompt").value.trim();
  if (!text || running) return;
  at("prompt").value = "";
  ask(text, takeWaiting());
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("form").requestSubmit(); }
});
// With Alt (Option): by place on the keyboard, since Option writes other characters.
const KEYS = {
  KeyN: () => at("new").click(),
  KeyR: () => { if (!running && chat.turns.length) again(chat.turns.at(-1)); },
  KeyD: () => at("drafting").click(),
  KeyG: () => at("grow").click(),
  KeyA: () => settle(proposed(chat).slice(0, 1), true),
  KeyX: () => settle(proposed(chat).slice(0, 1), false),
};
document.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.altKey && !event.ctrlKey && !event.metaKey && event.code in KEYS) { event.preventDefault(); KEYS[event.code](); }
  if (event.key !== "Escape") return;
  if (running) running.stop.abort();
  else if (document.body.classList.contains("listing")) listing(false);
});
at("stop").addEventListener("click", () => running?.stop.abort());
at("new").addEventListener("click", () => { listing(false); show(newChat()); at("prompt").focus(); });
at("drafting").addEventListener("click", () => drafting(!document.body.classList.contains("drafting")));
at("close-draft").addEventListener("click", () => { drafting(false); at("drafting").focus(); });
at("grow").addEventListener("click", () => grow(draftOf(chat).length));
at("own").addEventListener("click", writeOwn);
at("halt").addEventListener("click", () => running?.stop.abort());
at("accept-all").addEventListener("click", () => settle(proposed(chat), true));
at("reject-all").addEventListener("click", () => settle(proposed(chat), false));
at("keep-draft").addEventListener("click", () => download(titleOf(chat) + " (" + word("draft") + ").md", draftText(chat) + "\n", "text/markdown"));
at("list").addEventListener("click", () => listing(!document.body.classList.contains("listing")));
at("language").addEventListener("click", () => { language = language === "ko" ? "en" : "ko"; kept.write(SPOKEN, language); label(); });
for (const id of ["genre", "length", "scripts", "temperature", "system", "answering"]) at(id).addEventListener("change", choose);
at("temperature").addEventListener("input", summarise);
at("markdown").addEventListener("click", () => download(titleOf(chat) + ".md", markdown(chat), "text/markdown"));
at("rows").addEventListener("click", () => {
  const rows = kept.chats().map(row).filter(Boolean);
  at("notice").hidden = rows.length > 0;
  if (rows.length) download("conversations.jsonl", rows.map((one) => JSON.stringify(one) + "\n").join(""), "application/jsonl");
  else tell("norows");
});
at("add").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => { addPictures([...at("file").files]); at("file").value = ""; });
document.addEventListener("dragover", (event) => { if (event.dataTransfer.types.includes("Files")) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault(); // otherwise the browser leaves the page for the picture
  addPictures([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  addPictures([...event.clipboardData.files]);
});
window.addEventListener("pagehide", () => {
  if (running?.draft) keepGrown(running.chat, running.part, running.draft.text);
  else if (running) save(running.chat);
});
window.addEventListener("storage", () => {
  const other = kept.read(PREFIX + chat.id);
  if (!running && other) chat = other;
  if (!running) draw();
});

async function begin() {
  language = kept.read(SPOKEN) || (navigator.language.startsWith("ko") ? "ko" : "en");
  chat = kept.read(PREFIX + kept.read(LAST)) || chat;
  if (kept.read(DRAFTING)) drafting(true);
  label();
  try {
    served = await (await fetch("page/settings")).json();
    at("model").textContent = served.model;
    at("add").hidden = !served.sees;
    label();
  } catch { /* the first request says that the server cannot be reached */ }
}
begin();
at("prompt").focus();
