// What a writer thinks of answers: a vote, the better of two side by side, an edited text, a paragraph of the draft in
// place of another. Where the server keeps feedback each judgement goes there too, as a row that training can read.
//
// chat.refused: paragraphs that the writer did not want, { before, text, source }. before: what stood in the draft before
// its place. Once another paragraph stands there the two are a pair.
const MOST_REFUSED = 20, MOST_BEFORE = 800; // 글자 수 of the draft that a row shows before the paragraph

// The messages before the answer `turn`.
function promptOf(chat, turn) {
  return messagesOf(chat, chat.turns.slice(0, chat.turns.indexOf(turn) + 1), false, 0);
}

const told = (text) => [{ role: "assistant", content: text }];

async function judge(fields) {
  if (!served.feedback) return;
  if (shows(chat)) { tell("unseen"); return; } // no run learns from judged answers to pictures
  try {
    const response = await fetch("v1/feedback", { method: "POST", headers: headers(), body: JSON.stringify(fields) });
    say(response.ok ? word("judged") : word("unjudged"));
  } catch {
    say(word("lost"));
  }
}

function votes(turn) {
  const version = shownOf(turn);
  if (!served.feedback || !version.text) return [];
  return [["👍", "good", true], ["👎", "bad", false]].map(([sign, name, label]) => {
    const one = button(sign, () => {
      if (!shows(chat)) version.vote = label;
      save(chat);
      judge({ prompt: promptOf(chat, turn), completion: told(version.text), label, source: "vote" });
      draw();
    });
    one.setAttribute("aria-label", word(name));
    one.setAttribute("aria-pressed", String(version.vote === label));
    return one;
  });
}

// Who answers beside the one that is shown: whoever is chosen for the next answer, if that is another; else the next one.
function otherWriter(turn) {
  const names = served.writers.map((one) => one.name), shown = shownOf(turn).model || usual(), chosen = chat.settings.model || usual();
  return chosen === shown ? names[(names.indexOf(shown) + 1) % names.length] || "" : chosen;
}

// Another answer to the same request, to be read beside this one.
function beside(turn) {
  const first = turn.shown, model = otherWriter(turn);
  turn.shown = turn.versions.push({ text: "", end: "", model }) - 1;
  turn.beside = [first, turn.shown];
  write(turn, false);
}

function pick(turn, place) {
  const [better, worse] = [turn.versions[place], turn.versions[turn.beside.find((other) => other !== place)]];
  turn.shown = place;
  delete turn.beside;
  save(chat);
  if (better.text && worse.text && better.text !== worse.text) {
    judge({ prompt: promptOf(chat, turn), chosen: told(better.text), rejected: told(worse.text), source: "pick" });
  }
  draw();
}

// The two answers of a comparison, each with its model and a button that picks it.
function compared(turn) {
  const article = make("article", "answer pair", "");
  for (const place of turn.beside) {
    const version = turn.versions[place], side = document.createElement("section"), name = called(version.model);
    side.setAttribute("aria-label", name);
    side.append(make("p", "figures", name), make("p", "", version.text), make("p", "figures", figures(version)));
    side.append(actions(button(word("pick"), () => pick(turn, place)), button(word("copy"), () => copy(version.text))));
    article.append(side);
  }
  return article;
}

// A text that the writer changed is better than what the model wrote.
function judgeEdit(turn, before, text) {
  if (before.trim() && before !== text) judge({ prompt: promptOf(chat, turn), chosen: told(text), rejected: told(before), source: "edit" });
}

// The draft

function refuse(part, text, source) {
  if (!served.feedback || !text) return;
  const before = textsOf(draftOf(chat).slice(0, draftOf(chat).indexOf(part))).join(GAP);
  chat.refused = [...(chat.refused || []), { before, text, source }].slice(-MOST_REFUSED);
}

const textsOf = (parts) => parts.map((one) => one.text).filter(Boolean);

// Every refused paragraph at whose place another stands now becomes a row.
function judgeDraft() {
  const waiting = [];
  for (const one of chat.refused || []) {
    const better = standingAfter(one.before);
    if (!better) waiting.push(one);
    else if (better !== one.text) judgeParagraph(one, better);
  }
  chat.refused = waiting;
}

// The text of the paragraph after `before`; "" where there is none, or the writer has not decided on it.
function standingAfter(before) {
  const parts = draftOf(chat);
  const place = parts.findIndex((_, at) => textsOf(parts.slice(0, at)).join(GAP) === before);
  return place < 0 ? "" : parts[place].text;
}

function judgeParagraph({ before, text, source }, better) {
  const shown = lastParagraphs(before), answer = (paragraph) => told([...shown, paragraph].join(GAP));
  judge({ prompt: draftMessages(chat, [], 0), chosen: answer(better), rejected: answer(text), source });
}

// As many paragraphs of the end of `text` as have MOST_BEFORE characters, so that the row stays one that training reads.
function lastParagraphs(text) {
  const parts = text ? text.split(GAP) : [];
  while (parts.length && counted(parts.join("")) > MOST_BEFORE) parts.shift();
  return parts;
}
