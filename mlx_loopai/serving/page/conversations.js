// Conversations: what they are, where the browser keeps them, and the files that they become.
//
// A conversation: { id, changed, settings, turns, draft }. The draft is told in draft.js. A turn is a request { role: "user", content, images } or an answer
// { role: "assistant", versions, shown }; a version is one try at it: { text, end, figures, sources, error, dropped }.
// model: who answers, by the name of `served.writers`; vote: what the writer thinks of it. beside: the places of
// two versions that are compared. end: "stop" where the model ended it, "edited" where the writer changed it; every other
// end leaves it unfinished.
const PREFIX = "mlx-loopai.chat.", LAST = "mlx-loopai.last", CHOSEN = "mlx-loopai.settings", SPOKEN = "mlx-loopai.language";
const NO_SETTINGS = { genre: "", length: 0, scripts: "", temperature: null, system: "", model: "" };

const kept = {
  read(name) {
    try { return JSON.parse(localStorage.getItem(name)); } catch { return null; }
  },
  // False where the browser has no room, or keeps nothing at all.
  write(name, value) {
    try { localStorage.setItem(name, JSON.stringify(value)); return true; } catch { return false; }
  },
  remove(name) {
    try { localStorage.removeItem(name); } catch { /* a browser that keeps nothing has nothing to remove */ }
  },
  // Newest first.
  chats() {
    let names = [];
    try { names = Object.keys(localStorage); } catch { /* as above */ }
    const found = names.filter((name) => name.startsWith(PREFIX)).map((name) => kept.read(name));
    return found.filter((one) => one && Array.isArray(one.turns)).sort((a, b) => b.changed - a.changed);
  },
};

function newChat() {
  const id = Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
  return { id, changed: Date.now(), settings: { ...NO_SETTINGS, ...kept.read(CHOSEN) }, turns: [], draft: [] };
}

// The beginning of a conversation as one of its own: the other one stays as it is.
const fork = (chat, length) => ({ ...newChat(), settings: { ...chat.settings }, ...structuredClone({ turns: chat.turns.slice(0, length), draft: chat.draft || [] }) });

const shownOf = (turn) => turn.versions[turn.shown];
const textOf = (turn) => (turn.role === "user" ? turn.content : shownOf(turn).text);
const finished = (version) => version.text.trim() !== "" && (version.end === "stop" || version.end === "edited");
const titleOf = (chat) => (chat.turns[0]?.content || chat.draft?.[0]?.text || word("new")).replace(/\s+/g, " ").slice(0, 40);
const counted = (text) => [...text.replace(/\n/g, "")].length;

// The exchanges that the model is shown. A request without an answer is left out: the next one would follow it as a
// second turn of the same person.
function exchanges(turns) {
  const found = [];
  for (let place = 0; place + 1 < turns.length; place += 2) {
    if (textOf(turns[place + 1]).trim()) found.push([turns[place], textOf(turns[place + 1])]);
  }
  return found;
}

// What the server is sent of a request: its text, or parts where it shows pictures. An example of a genre is a text.
function contentOf(request) {
  if (!request.images?.length) return request.content ?? request;
  const shown = request.images.map((url) => ({ type: "image_url", image_url: { url } }));
  return [...shown, { type: "text", text: request.content }];
}

const shows = (chat) => chat.turns.some((turn) => turn.images?.length);
const pair = ([asked, told]) => [{ role: "user", content: contentOf(asked) }, { role: "assistant", content: told }];

function markdown(chat) {
  const heading = (text) => "## " + text + "\n\n";
  const drawn = (turn) => (turn.images || []).map((url) => "![" + word("picture") + "](" + url + ")\n\n").join("");
  const said = (turn) => drawn(turn) + textOf(turn).trim() + "\n";
  const parts = chat.turns.map((turn) => heading(turn.role === "user" ? word("you") : "mlx-loopai") + said(turn));
  return "# " + titleOf(chat) + "\n\n" + parts.join("\n");
}

// A turn of a row: its pictures are parts, which `images` of the row hold in the same order.
function turnOf([asked, told]) {
  const pictures = (asked.images || []).map(() => ({ type: "image" }));
  const content = pictures.length ? [...pictures, { type: "text", text: asked.content }] : asked.content;
  return [{ role: "user", content }, { role: "assistant", content: told }];
}

// One row that training can read: up to the first answer that is not finished, since training would learn to break off.
function row(chat) {
  const cut = chat.turns.findIndex((turn) => turn.role === "assistant" && !finished(shownOf(turn)));
  const told = exchanges(cut < 0 ? chat.turns : chat.turns.slice(0, cut - 1));
  if (!told.length) return null;
  const system = chat.settings.system.trim(), images = told.flatMap(([asked]) => asked.images || []);
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...told.flatMap(turnOf)];
  return images.length ? { messages, images } : { messages };
}

function download(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: type + ";charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
