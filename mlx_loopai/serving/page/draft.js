// The draft beside the chat: a document that grows. The model proposes paragraphs, the writer accepts or rejects each.
//
// A paragraph of `chat.draft`: { text, proposal }. text: what stands in the document, "" where one is only proposed.
// proposal: what the model would have there instead, "" where it proposes nothing.
const DRAFTING = "mlx-loopai.drafting", GAP = "\n\n";

const paragraphsOf = (text) => text.split(/\n+/).map((one) => one.trim()).filter(Boolean);
const draftOf = (one) => (one.draft ||= []);
const draftText = (one) => draftOf(one).map((part) => part.text).filter(Boolean).join(GAP);
const proposed = (one) => draftOf(one).filter((part) => part.proposal);

function propose(one, text) {
  const found = paragraphsOf(text);
  draftOf(one).push(...found.map((proposal) => ({ text: "", proposal })));
  return found.length;
}

function settle(parts, accepted) {
  for (const part of parts.filter((one) => one.proposal)) {
    refuse(part, accepted ? part.text : part.proposal, "draft");
    if (accepted) part.text = part.proposal;
    part.proposal = "";
  }
  changed();
  toNextProposal();
}

// After every change: a paragraph without text is none.
function changed() {
  chat.draft = draftOf(chat).filter((one) => one.text || one.proposal);
  judgeDraft();
  save(chat);
  draw();
}

const toNextProposal = () => (at("paragraphs").querySelector(".accept") || at("grow")).focus();

// Answers of the chat become proposals.
function intoDraft(text) {
  const count = propose(chat, text);
  save(chat);
  drafting(true);
  draw();
  say(word("proposals") + " " + count);
}

// Writing in the draft

// Messages that ask for what follows `before`, paragraphs of the draft of which the first `skipped` are left out.
function draftMessages(one, before, skipped) {
  const request = one.turns[0] || { content: word("growing") }, shown = before.slice(skipped);
  const begun = shown.length ? [{ role: "assistant", content: shown.join(GAP) + GAP }] : [];
  return [...opening(one), { role: "user", content: contentOf(request) }, ...begun];
}

const endOfParagraph = (text) => text.indexOf("\n", text.search(/\S/));

// What could follow the paragraphs before `place`: one paragraph in place of `part`, or, without it, as many as the model
// writes. It is shown as it is written, and becomes proposals at its end.
async function grow(place, part = null) {
  const own = chat, before = draftOf(own).slice(0, place).map((one) => one.text).filter(Boolean);
  const version = { text: "", end: "", model: own.settings.model }, length = own.settings.length;
  running = { chat: own, draft: version, part, stop: new AbortController() };
  draw();
  say(word("writing"));
  const asked = { chat: own, messages: (skipped) => draftMessages(own, before, skipped), most: Math.max(0, before.length - 1), goesOn: before.length > 0, version };
  const endOf = (text) => (part ? endOfParagraph(text) : length ? endNear(text, length) : -1);
  await written(asked, endOf, () => { if (own === chat) showGrowing(version.text); });
  keepGrown(own, part, version.text);
  draw();
  if (own !== chat) return;
  tellDraft(version.error);
  say(version.text.trim() + "\n" + (version.error || word("proposals") + " " + proposed(own).length));
  toNextProposal();
}

function keepGrown(own, part, text) {
  if (part) part.proposal = paragraphsOf(text)[0] || "";
  else propose(own, text);
  save(own);
}

function tellDraft(error) {
  at("draft-notice").hidden = !error;
  at("draft-notice").textContent = error ? word("failed") + ": " + error : "";
}

function showGrowing(text) {
  document.querySelector("#paragraphs .writing").textContent = text.trim();
}

// What stands there

function drawDraft() {
  const parts = draftOf(chat), growing = running?.draft && running.chat === chat ? running : null;
  const lines = parts.map((part, place) => drawPart(part, place, growing?.part === part));
  if (growing && !growing.part) lines.push(growingLine());
  at("paragraphs").replaceChildren(...lines);
  at("bare").hidden = lines.length > 0;
  const text = draftText(chat), waiting = proposed(chat).length;
  at("draft-size").textContent = counted(text).toLocaleString(language) + word("characters") + (waiting ? " · " + word("proposals") + " " + waiting : "");
  at("grow").disabled = running !== null || waiting > 0 || !(text || chat.turns.length);
  at("grow").title = waiting ? word("undecided") : "";
  for (const id of ["accept-all", "reject-all"]) at(id).hidden = waiting < 2 || running !== null;
  at("halt").hidden = !growing;
  at("keep-draft").disabled = !text;
}

function growingLine() {
  const line = document.createElement("li");
  line.append(make("p", "writing", ""));
  line.setAttribute("aria-busy", "true");
  return line;
}

function drawPart(part, place, rewriting) {
  const line = document.createElement("li");
  line.append(part.proposal || rewriting ? make(part.text ? "del" : "p", "", part.text) : make("p", "", part.text));
  if (rewriting) { line.append(make("ins", "writing", "")); line.setAttribute("aria-busy", "true"); return line; }
  if (part.proposal) line.append(make("ins", "", part.proposal));
  if (running) return line;
  line.append(part.proposal ? deciding(part) : changing(line, part, place));
  return line;
}

function deciding(part) {
  const accept = button(word("accept"), () => settle([part], true)), reject = button(word("reject"), () => settle([part], false));
  accept.className = "accept";
  return actions(accept, reject);
}

function changing(line, part, place) {
  const gone = () => { part.text = ""; changed(); };
  const change = (text) => { if (text !== part.text) refuse(part, part.text, "edit"); part.text = text; changed(); };
  return actions(
    button(word("edit"), () => edit(line, part.text, "save", change)),
    button(word("again"), () => grow(place, part)),
    button(word("remove"), gone),
  );
}

// A paragraph that the writer writes.
function writeOwn() {
  const line = document.createElement("li");
  at("paragraphs").append(line);
  at("bare").hidden = true;
  edit(line, "", "save", (text) => {
    draftOf(chat).push(...paragraphsOf(text).map((one) => ({ text: one, proposal: "" })));
    changed();
  });
}

function drafting(open) {
  document.body.classList.toggle("drafting", open);
  at("drafting").setAttribute("aria-expanded", String(open));
  kept.write(DRAFTING, open);
}

function labelDraft() {
  const texts = { "draft-title": "draft", drafting: "draft", bare: "bare", grow: "grow", "accept-all": "acceptall", "reject-all": "rejectall", own: "own", "keep-draft": "markdown", halt: "stop" };
  for (const [id, name] of Object.entries(texts)) at(id).textContent = word(name);
  at("close-draft").setAttribute("aria-label", word("close"));
}
