// Asks for the run's state every second and draws it.
const POLL_MS = 1000;
const at = (id) => document.getElementById(id);
let steps = [], state = null, chosen = null, reachable = true;

function make(tag, text, className = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function size(bytes) {
  const gib = bytes / 2 ** 30;
  return gib >= 1 ? gib.toFixed(1) + " GiB" : (bytes / 2 ** 20).toFixed(0) + " MiB";
}

function duration(seconds) {
  if (seconds < 60) return Math.max(1, Math.round(seconds)) + word("s");
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? minutes + word("m") : Math.floor(minutes / 60) + word("h") + " " + (minutes % 60) + word("m");
}

const number = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
const lastOf = (list) => list[list.length - 1];

function label() {
  document.documentElement.lang = language;
  at("language").textContent = word("other");
  for (const id of ["now", "curves", "samples", "notices"]) at(id + "-title").textContent = word(id);
  at("at-label").textContent = word("at");
  at("none").textContent = word("none");
  at("save").textContent = word("save");
  at("stop").textContent = word("stop");
  if (state) draw();
}

function stageText() {
  if (state.verdict) return word("verdict") + ": " + (word(state.verdict) || word("little"));
  if (!state.alive) return state.done ? word("ended") : state.step || state.stage ? word("dead") : word("waiting");
  const stage = state.stage;
  return stage ? stage.name + (stage.total > 1 ? " " + stage.done + "/" + stage.total : "") : word("waiting");
}

function figures() {
  const last = lastOf(steps), kept = lastOf(state.kept);
  const found = [[word("steps"), state.step + (state.total_steps ? " / " + state.total_steps : "")]];
  if (state.alive && state.left_s !== null) {
    const [low, high] = state.left_s.map(duration);
    found.push([word("left"), low === high ? low : low + word("to") + high]);
  }
  if (last) found.push([word("loss"), number(last[1], 3)]);
  if (last && Number.isFinite(last[5])) found.push([word("reward"), number(last[5], 3)]);
  if (kept) found.push([word("kept"), number(kept[1], 3), state.kept_floor !== null && kept[1] < state.kept_floor]);
  if (last) found.push([word("rate"), Number.isFinite(last[2]) ? last[2].toExponential(1) : "–"]);
  if (last && last[4] && state.plan_bytes) {
    const text = size(last[4]) + " / " + word("planned") + " " + size(state.plan_bytes);
    found.push([word("memory"), text, last[4] > state.plan_bytes]);
  }
  at("figures").replaceChildren(...found.map(([name, value, over]) => {
    const box = document.createElement("div");
    box.append(make("dt", name), make("dd", value, over ? "over" : ""));
    return box;
  }));
}

function drawn(title, note, points, mark, value) {
  if (!points.length) return [];
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  caption.append(make("b", title), " " + value + (note ? " · " + note : ""));
  figure.append(caption, curve(points, mark, title + ": " + value));
  return [figure];
}

function curves() {
  const of = (place) => steps.map((step) => [step[0], step[place]]), last = lastOf(steps) || [];
  const kept = lastOf(state.kept) || [], validation = lastOf(state.validation) || [];
  const floor = state.kept_floor === null ? "" : ", " + word("floor") + " " + number(state.kept_floor, 2);
  at("curves").replaceChildren(
    ...drawn(word("loss"), word("lossnote"), of(1), null, number(last[1], 3)),
    ...(Number.isFinite(last[5]) ? drawn(word("reward"), word("rewardnote"), of(5), null, number(last[5], 3)) : []),
    ...drawn(word("kept"), word("keptnote") + floor, state.kept, state.kept_floor, number(kept[1], 3)),
    ...drawn(word("validation"), word("lossnote"), state.validation, null, number(validation[1], 3)),
    ...drawn(word("rate"), "", of(2), null, Number.isFinite(last[2]) ? last[2].toExponential(1) : "–"),
    ...drawn(word("memory"), state.plan_bytes ? word("planned") + " " + size(state.plan_bytes) : "", of(3), state.plan_bytes, last[3] ? size(last[3]) : "–"),
  );
}

function samples() {
  const all = state.samples, shown = all.find((one) => one.step === chosen) || lastOf(all);
  at("none").hidden = all.length > 0 || state.done;
  at("choose").hidden = all.length < 2;
  if (!shown) { at("samples").replaceChildren(); return; }
  const options = all.map((one) => new Option(String(one.step), one.step, false, one.step === shown.step));
  if (at("at").options.length !== all.length || document.activeElement !== at("at")) at("at").replaceChildren(...options);
  const key = language + shown.step + ":" + shown.answers.length;
  if (at("samples").dataset.shown === key) return; // what somebody reads or selects stays as it is
  at("samples").dataset.shown = key;
  at("samples").replaceChildren(...shown.answers.map((one) => {
    const article = document.createElement("article"), pair = make("div", "", "pair");
    for (const [name, text] of [[word("base"), one.base], [word("tuned") + " (" + shown.step + ")", one.tuned]]) {
      const side = document.createElement("div");
      side.append(make("span", name, "soft"), make("p", text));
      pair.append(side);
    }
    article.append(make("h3", one.prompt), pair);
    return article;
  }));
}

function draw() {
  at("run").textContent = state.run;
  const text = stageText();
  document.title = text + " – mlx-loopai";
  if (at("stage").textContent !== text) at("stage").textContent = text;
  const stage = state.stage, part = state.total_steps && state.step && !state.done ? state.step / state.total_steps : stage && stage.total ? stage.done / stage.total : 0;
  at("bar").value = state.done && !state.alive ? 1 : part;
  at("bar").setAttribute("aria-label", text);
  at("save").disabled = at("stop").disabled = !state.alive || state.done;
  at("noticed").hidden = !state.notices.length;
  at("notices").replaceChildren(...state.notices.map((notice) => make("li", notice)));
  figures();
  curves();
  samples();
}

async function poll() {
  try {
    const after = steps.length ? lastOf(steps)[0] : 0;
    const found = await (await fetch("state?after=" + after)).json();
    if (found.step < after) steps = []; // it went back to a checkpoint, or began anew
    else steps.push(...found.steps);
    state = found;
    if (!reachable) at("said").textContent = "";
    reachable = true;
    draw();
  } catch (error) {
    if (error instanceof TypeError) { reachable = false; at("said").textContent = word("lost"); } else throw error;
  } finally {
    setTimeout(poll, POLL_MS);
  }
}

async function wish(name, said) {
  try {
    const response = await fetch("wish/" + name, { method: "POST" });
    at("said").textContent = response.ok ? said : word("refused");
  } catch {
    at("said").textContent = word("lost");
  }
}

at("save").addEventListener("click", () => wish("save", word("asked")));
at("stop").addEventListener("click", () => {
  if (at("stop").textContent !== word("sure")) { at("stop").textContent = word("sure"); return; }
  at("stop").textContent = word("stop");
  wish("stop", word("stopping"));
});
at("at").addEventListener("change", () => { chosen = Number(at("at").value); samples(); });
at("language").addEventListener("click", () => { language = language === "ko" ? "en" : "ko"; label(); });
label();
poll();
