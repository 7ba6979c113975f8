// Pictures that the next request shows: dropped on the page, pasted or chosen, made small enough to keep, and drawn.
// A picture is a data URL; a request has those that it shows in `images`.
const SENT_AS_IT_IS = ["image/png", "image/jpeg", "image/webp"], MOST_BYTES = 256 * 1024, MOST_SIDE = 1024;
let waiting = [];

// A small file as it is. A larger one, or one of a kind that the server does not read, is drawn anew: the browser's store
// has room for a few million characters, and a model reads about a million pixels.
async function pictureOf(file) {
  const drawn = await createImageBitmap(file);
  if (file.size <= MOST_BYTES && SENT_AS_IT_IS.includes(file.type)) return dataUrl(file);
  const scale = Math.min(1, MOST_SIDE / Math.max(drawn.width, drawn.height)), canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(drawn.width * scale));
  canvas.height = Math.max(1, Math.round(drawn.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(drawn, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.9);
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function addPictures(files) {
  at("notice").hidden = true;
  if (files.length && !served.sees) return tell("blind");
  for (const file of files) {
    try { waiting.push(await pictureOf(file)); } catch { tell("nopicture"); }
  }
  drawWaiting();
}

function tell(name) {
  at("notice").textContent = word(name);
  at("notice").hidden = false;
}

function takeWaiting() {
  const taken = waiting;
  waiting = [];
  drawWaiting();
  return taken;
}

function drawWaiting() {
  at("waiting").replaceChildren(...waiting.map((url, place) => {
    const one = make("span", "", ""), gone = button("×", () => { waiting.splice(place, 1); drawWaiting(); });
    gone.setAttribute("aria-label", word("remove") + ": " + word("picture") + " " + (place + 1));
    one.append(imageOf(url), gone);
    return one;
  }));
  at("waiting").hidden = waiting.length === 0;
}

function imageOf(url) {
  const image = document.createElement("img");
  image.src = url;
  image.alt = word("picture");
  return image;
}

function gallery(urls) {
  const line = make("div", "pictures", "");
  line.append(...urls.map(imageOf));
  return line;
}
