// The tokens of a rollout, coloured by what the reader chooses. Texts are text nodes: nothing a policy wrote is markup.

const box = document.getElementById("tokens");
const url = box?.dataset.url;
const MODES = [
  ["logprob", "log-prob"],
  ["advantage", "advantage"],
  ["mask", "mask"],
  ["version", "version"],
];
// Least log-prob of each class, in nats.
const HEAT = [
  [-0.1, "h0", "above −0.1"],
  [-0.5, "h1", "−0.5"],
  [-1, "h2", "−1"],
  [-2, "h3", "−2"],
  [-4, "h4", "−4"],
  [-Infinity, "h5", "below −4"],
];

const LONG = 40; // a prompt of so many tokens is folded

function element(name, cls, text) {
  const made = document.createElement(name);
  if (cls) made.className = cls;
  if (text !== undefined) made.textContent = text;
  return made;
}

const signed = (value, digits) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const params = () => new URLSearchParams(location.search);

function remember(name, value) {
  const now = params();
  if (value) now.set(name, value);
  else now.delete(name);
  history.replaceState(null, "", `?${now}`);
}

if (url) {
  let mode = params().get("color");
  if (!MODES.some(([name]) => name === mode)) mode = "logprob";
  const tools = element("div", "tools");
  const scale = element("div", "scale");
  const text = element("pre", "text");
  const fold = element("button", "fold");
  const more = element("button", "", "more");
  const readout = element("p", "readout");
  readout.setAttribute("role", "status");
  const segments = element("select");
  segments.setAttribute("aria-label", "segment");
  const pieces = []; // what was loaded of the segment
  let prompt = 0; // tokens before the first that was sampled
  let segment = Number(params().get("segment")) || 0;

  for (const [name, label] of MODES) {
    if (name === "advantage" && !("trained" in box.dataset)) continue;
    const line = element("label");
    const radio = element("input");
    Object.assign(radio, { type: "radio", name: "color", value: name, checked: name === mode });
    radio.addEventListener("change", () => {
      mode = name;
      remember("color", name === "logprob" ? "" : name);
      paint();
    });
    line.append(radio, label);
    tools.append(line);
  }
  if (mode === "advantage" && !("trained" in box.dataset)) mode = "logprob";
  more.hidden = fold.hidden = true;
  fold.type = more.type = "button";
  box.append(tools, scale, fold, text, more, readout);

  function colour(piece, i) {
    const logprob = piece.logprobs[i];
    if (logprob === null) return "context";
    if (mode === "mask") return "learned";
    if (mode === "version") return `v${((piece.versions[i] % 4) + 4) % 4}`;
    if (mode === "logprob") return HEAT.find(([least]) => logprob >= least)[1];
    if (!piece.advantage) return "";
    return (piece.advantage > 0 ? "up" : "dn") + Math.max(1, Math.ceil((3 * Math.abs(piece.advantage)) / piece.largest));
  }

  function told(piece, i) {
    const parts = [JSON.stringify(piece.texts[i]), `id ${piece.ids[i]}`, `position ${piece.start + i}`];
    const logprob = piece.logprobs[i];
    if (logprob === null) parts.push("context: not sampled, not learned");
    else {
      parts.push(`log-prob ${logprob.toFixed(3).replace("-", "−")}`, `p ${Math.exp(logprob).toFixed(3)}`);
      parts.push(`version ${piece.versions[i]}`);
      if (piece.advantage !== null) parts.push(`advantage ${signed(piece.advantage, 3)}`);
    }
    return parts.join(" · ");
  }

  function paint() {
    scale.replaceChildren();
    const key = (cls, label) => scale.append(element("span", cls, label));
    const piece = pieces[0];
    if (mode === "logprob") for (const [, cls, label] of HEAT) key(cls, label);
    if (mode === "mask") key("learned", "sampled by the policy: learned"), key("context", "context");
    if (mode === "version") {
      const seen = new Set(pieces.flatMap((one) => one.versions.filter((v) => v !== null)));
      for (const v of [...seen].sort((a, b) => a - b)) key(`v${v % 4}`, `version ${v}`);
    }
    if (mode === "advantage" && piece) {
      const shown =
        piece.advantage === null
          ? "masked: no part of its group, and not learned"
          : `every sampled token has ${signed(piece.advantage, 3)}: reward ${piece.reward.toFixed(3)} − group mean ` +
            piece.group_mean.toFixed(3) +
            (piece.norm === "std" ? ", divided by the group's standard deviation" : "");
      key("", shown);
    }
    for (const span of text.children)
      span.className = `${colour(pieces[span.piece], span.index)}${span.prompt ? " prompt" : ""}`;
    fold.hidden = prompt < LONG;
    fold.textContent = `${text.classList.contains("folded") ? "show" : "hide"} the prompt (${prompt} tokens)`;
  }

  async function load() {
    const last = pieces.at(-1);
    const start = last ? last.start + last.ids.length : 0;
    const answer = await fetch(`${url}&segment=${segment}&start=${start}`);
    const piece = await answer.json();
    if (answer.ok && !last) {
      prompt = piece.logprobs.findIndex((one) => one !== null); // all before what the policy said first
      text.classList.toggle("folded", prompt >= LONG);
    }
    if (!answer.ok) {
      readout.textContent = piece.error;
      return;
    }
    pieces.push(piece);
    const made = document.createDocumentFragment();
    piece.texts.forEach((one, i) => {
      const span = element("span", "", one.replace(/\n/g, "↵\n"));
      Object.assign(span, { piece: pieces.length - 1, index: i, prompt: piece.start + i < prompt });
      made.append(span);
    });
    text.append(made);
    const left = piece.length - piece.start - piece.ids.length;
    more.hidden = left <= 0;
    more.textContent = `show more (${left.toLocaleString("en")} tokens left)`;
    if (segments.options.length !== piece.segments) {
      segments.replaceChildren();
      for (let i = 0; i < piece.segments; i++) segments.append(new Option(`segment ${i + 1} of ${piece.segments}`, i));
      segments.value = piece.segment;
      if (piece.segments > 1) tools.append(segments);
    }
    readout.textContent = piece.note || `${piece.length.toLocaleString("en")} tokens; point at one to read it`;
    paint();
  }

  const point = (event) => {
    if (event.target.parentNode === text) readout.textContent = told(pieces[event.target.piece], event.target.index);
  };
  text.addEventListener("pointerover", point);
  text.addEventListener("click", point);
  more.addEventListener("click", load);
  fold.addEventListener("click", () => {
    text.classList.toggle("folded");
    paint();
  });
  segments.addEventListener("change", () => {
    segment = Number(segments.value);
    remember("segment", segment || "");
    pieces.length = 0;
    text.replaceChildren();
    load();
  });
  load();
}
