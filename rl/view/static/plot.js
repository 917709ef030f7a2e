// Line charts as SVG: round ticks, linear or logarithmic, a moving mean before the raw numbers, values under the pointer.
// Pointing at one chart shows all charts' values there.

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const PAD = { left: 48, right: 8, top: 8, bottom: 22 };
const TINY = 1e-30; // below it a value is zero to a reader
let pointed = null; // x under the pointer, in units of the charts

function svg(name, attributes, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function html(name, cls, text) {
  const made = document.createElement(name);
  if (cls) made.className = cls;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function compact(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return value.toExponential(size >= 1e6 ? 2 : 1).replace("e+", "e").replace("-", "−");
  if (size >= 1000) return Math.round(value).toLocaleString("en").replace("-", "−");
  return Number(value.toPrecision(size >= 1 ? 4 : 3)).toString().replace("-", "−");
}

function roundTicks(low, high, about) {
  const rough = (high - low) / about;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => unit * m).find((s) => s >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i++) found.push(Number((i * step).toPrecision(10)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  const every = Math.max(1, Math.ceil((Math.log10(high) - Math.log10(low)) / 6));
  for (let e = Math.ceil(Math.log10(low) - 1e-9); e <= Math.log10(high) + 1e-9; e += every) found.push(10 ** e);
  return found.length > 1 ? found : [low, high];
}

function smoothed(points, window) {
  const half = Math.floor(window / 2);
  return points.map(([x], i) => {
    const near = points.slice(Math.max(0, i - half), i + half + 1);
    return [x, near.reduce((sum, [, y]) => sum + y, 0) / near.length];
  });
}

/** At most the least and the largest point of every pixel. */
function thinned(points, width) {
  if (points.length <= 2 * width) return points;
  const kept = [];
  const size = points.length / width;
  for (let i = 0; i < width; i++) {
    const part = points.slice(Math.floor(i * size), Math.floor((i + 1) * size));
    const least = part.reduce((a, b) => (b[1] < a[1] ? b : a));
    const largest = part.reduce((a, b) => (b[1] > a[1] ? b : a));
    kept.push(...(least[0] <= largest[0] ? [least, largest] : [largest, least]));
  }
  return kept;
}

function nearest(points, x) {
  let low = 0;
  let high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= x) low = middle;
    else high = middle;
  }
  return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? points[low] : points[high];
}

/** Charts that are shown; each is drawn anew when its numbers or its width changed. */
const shown = new Map();

export function draw(box, charts, settings) {
  const ids = new Set(charts.map((chart) => chart.id));
  for (const [id, one] of shown) if (!ids.has(id)) one.figure.remove(), shown.delete(id);
  box.querySelector(".note")?.remove();
  if (!charts.length) box.append(html("p", "note", settings.empty));
  let before = null;
  for (const chart of charts) {
    let one = shown.get(chart.id);
    if (!one) {
      one = frame(chart.id);
      shown.set(chart.id, one);
    }
    const place = before ? before.nextSibling : box.firstChild;
    if (one.figure !== place) box.insertBefore(one.figure, place);
    before = one.figure;
    one.chart = chart;
    one.settings = settings;
  }
  for (const one of shown.values()) paint(one);
}

function frame(id) {
  const figure = html("figure", "chart");
  const head = html("div", "head");
  const one = { figure, title: html("b"), log: html("button", "", "log"), legend: html("div", "legend"), box: html("div") };
  one.log.type = "button";
  one.log.addEventListener("click", () => one.settings.flip(id));
  one.remove = html("button", "", "×");
  one.remove.type = "button";
  one.remove.setAttribute("aria-label", "remove");
  one.remove.addEventListener("click", () => one.settings.remove(id));
  const buttons = html("span");
  buttons.append(one.log, " ", one.remove);
  head.append(one.title, buttons);
  figure.append(head, one.legend, one.box);
  figure.dataset.metric = id;
  const point = (event) => {
    const area = one.area;
    if (!area) return;
    const at = (event.clientX - one.box.getBoundingClientRect().left - PAD.left) / (area.width - PAD.left - PAD.right);
    pointed = area.x0 + Math.min(1, Math.max(0, at)) * (area.x1 - area.x0);
    shown.forEach(mark);
  };
  one.box.addEventListener("pointermove", point);
  one.box.addEventListener("pointerdown", point);
  one.box.addEventListener("pointerleave", () => {
    pointed = null;
    shown.forEach(mark);
  });
  return one;
}

function paint(one) {
  const { chart, settings } = one;
  one.title.textContent = chart.title;
  one.figure.title = chart.hint;
  one.log.setAttribute("aria-pressed", chart.log);
  one.remove.hidden = !chart.removable;
  const usable = (points) => (chart.log ? points.filter(([, y]) => y > TINY) : points);
  const lines = chart.lines.map((line) => ({ ...line, raw: usable(line.points) })).filter((line) => line.raw.length);
  for (const line of lines) line.points = settings.smooth > 1 ? smoothed(line.raw, settings.smooth) : line.raw;
  const width = Math.max(200, one.box.clientWidth || one.figure.clientWidth - 26);
  const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": chart.title });
  one.box.replaceChildren(root);
  one.lines = lines;
  one.area = null;
  if (!lines.length) {
    const why = chart.log && chart.lines.some((line) => line.points.length) ? "nothing above 0" : "no numbers yet";
    root.append(svg("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, why));
    mark(one);
    return;
  }
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const line of lines)
    for (const [x, y] of line.raw) {
      [x0, x1] = [Math.min(x0, x), Math.max(x1, x)];
      [y0, y1] = [Math.min(y0, y), Math.max(y1, y)];
    }
  if (x1 <= x0) x1 = x0 + 1;
  if (chart.log) {
    [y0, y1] = [10 ** Math.floor(Math.log10(y0)), 10 ** Math.ceil(Math.log10(y1))];
    if (y1 <= y0) y1 = y0 * 10;
  } else {
    let pad = (y1 - y0) * 0.08;
    if (pad <= Math.max(TINY, Math.abs(y1) * 1e-9)) pad = Math.abs(y1) > TINY ? Math.abs(y1) * 0.1 : 1;
    [y0, y1] = [y0 < 0 ? y0 - pad : Math.max(0, y0 - pad), y1 + pad];
  }
  const scale = chart.log ? Math.log10 : (value) => value;
  const px = (x) => PAD.left + ((x - x0) / (x1 - x0)) * (width - PAD.left - PAD.right);
  const py = (y) =>
    HEIGHT - PAD.bottom - ((scale(y) - scale(y0)) / (scale(y1) - scale(y0))) * (HEIGHT - PAD.top - PAD.bottom);
  for (const tick of chart.log ? logTicks(y0, y1) : roundTicks(y0, y1, 5)) {
    const y = py(tick).toFixed(1);
    root.append(svg("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: y, y2: y }));
    root.append(svg("text", { x: PAD.left - 7, y: Number(y) + 4, "text-anchor": "end" }, compact(tick)));
  }
  const ticks = roundTicks(x0, x1, Math.max(2, Math.floor(width / 60))).filter(
    (tick) => settings.unit !== "step" || Number.isInteger(tick),
  );
  for (const tick of ticks) {
    const end = px(tick) > width - 24;
    const at = { x: end ? width - PAD.right : px(tick).toFixed(1), y: HEIGHT - 6, "text-anchor": end ? "end" : "middle" };
    root.append(svg("text", at, compact(tick)));
  }
  const path = (points) => points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ");
  for (const line of lines) {
    const look = `k${line.color} d${line.dash}`;
    if (settings.smooth > 1) root.append(svg("polyline", { class: `raw ${look}`, points: path(thinned(line.raw, width)) }));
    if (line.points.length === 1) {
      const [x, y] = line.points[0];
      root.append(svg("circle", { class: look, cx: px(x), cy: py(y), r: 2.5 }));
    } else root.append(svg("polyline", { class: look, points: path(thinned(line.points, width)) }));
  }
  one.area = { x0, x1, width, px, py, root };
  mark(one);
}

/** The legend, with the values under the pointer, else the last ones. */
function mark(one) {
  const { chart, settings, area } = one;
  one.legend.replaceChildren();
  area?.root.querySelectorAll(".mark").forEach((old) => old.remove());
  let at = null;
  for (const line of one.lines ?? []) {
    const [x, y] = pointed === null ? line.points.at(-1) : nearest(line.points, pointed);
    const entry = html("span");
    entry.append(html("i", `k${line.color}`), line.label, html("em", "", compact(y)));
    one.legend.append(entry);
    at = x;
    if (pointed !== null && area) {
      const dot = { class: `mark k${line.color}`, cx: area.px(x), cy: area.py(y), r: 3 };
      area.root.append(svg("circle", dot));
    }
  }
  if (at === null || !area) return;
  one.legend.append(html("span", "at", `${settings.unit} ${compact(at)}`));
  if (pointed !== null) {
    const x = area.px(at).toFixed(1);
    area.root.prepend(svg("line", { class: "mark cross", x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom }));
  }
}
