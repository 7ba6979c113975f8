// The settings of a conversation: genre, length, letters, temperature, system prompt, and who answers.
const usual = () => served.writers[0]?.name || "";

// Who answers, in a writer's words: the base, an adapter, or whichever of the two suits the request.
function called(name) {
  const { model, when } = writerOf(name || usual());
  return when ? word(when) + ": " + (when === "never" ? model : model.split(":").pop()) : model;
}

function fill(id, choices, chosen) {
  at(id).replaceChildren(...choices.map(([value, text]) => new Option(text, value, false, value === String(chosen))));
}

function drawSettings() {
  const set = chat.settings, sizes = [300, 500, 1000, 2000, 4000];
  const size = (n) => n.toLocaleString(language) + word("characters");
  fill("genre", [["", word("nogenre")], ...served.genres.map((one) => [one.name, one.name])], set.genre);
  fill("length", [["0", word("free")], ...sizes.map((n) => [String(n), size(n)])], set.length);
  const known = [["ko+loanwords+gloss", word("usual")], ["ko", word("hangul")], ["ko+latin+gloss", word("english")], ["off", word("all")]];
  if (!known.some(([value]) => value === served.scripts)) known.unshift([served.scripts, word("server")]);
  fill("scripts", known, set.scripts || served.scripts);
  fill("answering", served.writers.map((one) => [one.name, called(one.name)]), set.model || usual());
  at("answering").parentElement.hidden = served.writers.length < 2;
  at("temperature").value = set.temperature ?? served.temperature;
  at("system").value = set.system;
  const genre = served.genres.find((one) => one.name === set.genre);
  at("system").placeholder = genre ? genre.system_prompt : "";
  summarise();
}

function summarise() {
  const warmth = Number(at("temperature").value).toFixed(1);
  const parts = [at("genre").selectedOptions[0]?.text, at("length").selectedOptions[0]?.text, word("temperature") + " " + warmth];
  at("summary").textContent = word("settings") + ": " + parts.join(" · ");
  at("temperature").setAttribute("aria-valuetext", warmth);
}

function choose() {
  const scripts = at("scripts").value === served.scripts ? "" : at("scripts").value;
  const temperature = Number(at("temperature").value);
  chat.settings = {
    genre: at("genre").value, length: Number(at("length").value), scripts, system: at("system").value,
    model: at("answering").value === usual() ? "" : at("answering").value,
    temperature: chat.settings.temperature === null && temperature === served.temperature ? null : temperature,
  };
  kept.write(CHOSEN, { ...chat.settings, system: "" });
  if (chat.turns.length) save(chat);
  drawSettings();
}
