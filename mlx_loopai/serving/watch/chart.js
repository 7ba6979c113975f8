// A curve as a small picture that stretches with its box.
const SVG = "http://www.w3.org/2000/svg", WIDE = 300, HIGH = 100, MOST_POINTS = 600;

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// At most MOST_POINTS of `points`; of each stretch the lowest and the highest stay, so that spikes do.
function thinned(points) {
  if (points.length <= MOST_POINTS) return points;
  const width = Math.ceil((2 * points.length) / MOST_POINTS), found = [];
  for (let from = 0; from < points.length; from += width) {
    const stretch = points.slice(from, from + width).sort((a, b) => a[1] - b[1]);
    found.push(...[stretch[0], stretch[stretch.length - 1]].sort((a, b) => a[0] - b[0]));
  }
  return found;
}

// points: [[x, y]], those without a finite y left out. mark: a height to show as a dashed line, or null.
function curve(points, mark, label) {
  const known = thinned(points.filter(([, y]) => Number.isFinite(y)));
  const picture = shape("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  if (!known.length) return picture;
  const heights = known.map(([, y]) => y).concat(Number.isFinite(mark) ? [mark] : []);
  const low = Math.min(...heights), high = Math.max(...heights), first = known[0][0], last = known[known.length - 1][0];
  const x = (value) => (last > first ? (WIDE * (value - first)) / (last - first) : WIDE / 2).toFixed(2);
  const y = (value) => (high > low ? 96 - (92 * (value - low)) / (high - low) : HIGH / 2).toFixed(2);
  if (Number.isFinite(mark)) picture.append(shape("line", { class: "mark", x1: 0, x2: WIDE, y1: y(mark), y2: y(mark) }));
  picture.append(shape("polyline", { class: "curve", points: known.map((point) => x(point[0]) + "," + y(point[1])).join(" ") }));
  return picture;
}
