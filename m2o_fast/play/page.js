"use strict";
// The page of m2o-fast play. It asks the server it came from, and nobody else.

const $ = (id) => document.getElementById(id);
const GRID = 12, STRIP = 8;
const EMPTY = 256, LONGEST = 512; // pixels: of an empty canvas; of a large image to draw on
const state = { runs: [], image: null, look: { seed: 0 }, other: null, first: 1 };
let drawing = null;

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

async function answer(path, body) {
  const options = body && {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("m2o-fast play does not answer any more: start it again");
  }
  const found = await reply.json().catch(() => ({ error: `answer ${reply.status}` }));
  if (!reply.ok) throw new Error(found.error);
  return found;
}

// Of several questions for one place, the newest waits for the one that is being answered; those between are dropped.
const waiting = new Map();
function newest(place, ask) {
  const isBusy = waiting.has(place);
  waiting.set(place, ask);
  if (!isBusy) work(place);
}
async function work(place) {
  while (waiting.get(place)) {
    const ask = waiting.get(place);
    waiting.set(place, null);
    try {
      await ask();
    } catch (error) {
      say(error.message, true);
    }
  }
  waiting.delete(place);
}

function direction() {
  const [source, target] = JSON.parse($("direction").value);
  return { source, target };
}
function wayOf(run) {
  const { source, target } = direction();
  return run.directions.find((way) => way.source === source && way.target === target);
}
function isNow({ source, target }) {
  const now = direction();
  return now.source === source && now.target === target;
}
function able() {
  return state.runs.map((run, number) => ({ run, number, way: wayOf(run) })).filter(({ way }) => way);
}

function lookNow(share = Number($("share").value)) {
  const slides = [...$("slides").querySelectorAll("input")].map((input) => Number(input.value));
  const look = { ...state.look, slides };
  return state.other ? { ...look, other: state.other, share } : look;
}

// --- results ---

function update() {
  if (!state.image) return;
  for (const { run, number, way } of able()) {
    newest(`run ${number}`, async () => {
      const strip = way.style && state.other ? [...Array(STRIP).keys()].map((k) => lookNow(k / (STRIP - 1))) : [];
      const asked = { run: number, image: state.image, ...direction(), looks: [lookNow(), ...strip] };
      try {
        const found = await answer("translate", asked);
        if (!isNow(asked)) return; // another direction was chosen meanwhile
        show($(`result-${number}`), found);
        say(`${found.milliseconds} ms for ${found.images.length} image${found.images.length > 1 ? "s" : ""}`);
      } catch (error) {
        if (isNow(asked)) show($(`result-${number}`), { images: [], command: error.message });
        throw error;
      }
    });
  }
}

function show(figure, found) {
  const [picture, save, words, strip] = figure.children;
  for (const [shown, name] of [[picture, "src"], [save, "href"]]) {
    if (found.images.length) shown.setAttribute(name, found.images[0]);
    else shown.removeAttribute(name); // nothing of an earlier image stays beside what is wrong with this one
  }
  words.textContent = found.command ?? "The saved file holds the style.";
  strip.replaceChildren(...found.images.slice(1).map((url) => {
    const tile = new Image();
    tile.src = url;
    tile.alt = "a look between A and B";
    return tile;
  }));
}

function grid() {
  const one = able().find(({ way }) => way.style);
  $("looks").replaceChildren();
  if (!one || !state.image) return;
  const seeds = [...Array(GRID).keys()].map((k) => state.first + k);
  newest("grid", async () => {
    const asked = { run: one.number, image: state.image, ...direction(), looks: seeds.map((seed) => ({ seed })) };
    const found = await answer("translate", asked);
    if (!isNow(asked)) return;
    $("looks").replaceChildren(...found.images.map((url, k) => tile(url, `look ${seeds[k]}`, () => {
      choose({ seed: seeds[k] });
    })));
    mark();
  });
}

function tile(url, label, act) {
  const button = document.createElement("button"), picture = new Image();
  button.type = "button";
  button.title = label;
  button.setAttribute("aria-label", label);
  picture.src = url;
  picture.alt = "";
  button.append(picture);
  button.addEventListener("click", async () => {
    try {
      await act();
    } catch (error) {
      say(error.message, true);
    }
  });
  return button;
}

function choose(look) {
  if ($("as-b").checked) {
    state.other = look;
    if (Number($("share").value) === 0) $("share").value = 0.5;
    shown($("share"));
  } else {
    state.look = look;
    if (look.seed !== undefined) $("seed").value = look.seed;
  }
  mark();
  update();
}

function mark() {
  for (const button of $("looks").children) {
    button.setAttribute("aria-pressed", button.title === `look ${state.look.seed}` && !state.look.reference);
    button.classList.toggle("b", Boolean(state.other) && button.title === `look ${state.other.seed}`);
  }
}

// --- controls ---

function shown(input) {
  input.parentElement.querySelector("output").textContent = Number(input.value).toFixed(2);
}

function slider(label) {
  const row = document.createElement("label"), input = document.createElement("input");
  row.className = "slide";
  Object.assign(input, { type: "range", min: -3, max: 3, step: 0.05, value: 0 });
  input.addEventListener("input", () => { shown(input); update(); });
  input.addEventListener("dblclick", () => { input.value = 0; shown(input); update(); });
  row.append(label, input, document.createElement("output"));
  shown(input);
  return row;
}

function samplesOf(name) {
  const number = state.runs.findIndex((run) => run.domains.some((one) => one.name === name && one.samples));
  if (number < 0) return [];
  const count = state.runs[number].domains.find((one) => one.name === name).samples;
  return [...Array(count).keys()].map((k) => `sample/${number}/${k}/${encodeURIComponent(name)}`);
}

async function fileOf(url) {
  const reply = await fetch(url).catch(() => null);
  if (!reply || !reply.ok) throw new Error("this image cannot be had any more: start m2o-fast play again");
  return dataUrl(await reply.blob());
}

function dataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new Error("the file cannot be read"));
    reader.readAsDataURL(blob);
  });
}

function pickers(place, domain, act) {
  const now = direction();
  $(place).replaceChildren(...samplesOf(domain).map((url, k) => tile(url, `${domain} ${k + 1}`, async () => {
    const file = await fileOf(url);
    if (isNow(now)) act(file); // else it is of a domain that was left meanwhile
  })));
}

function turn() {
  const { source, target } = direction();
  const ways = able(), styled = ways.some(({ way }) => way.style);
  $("look").hidden = !styled;
  slide(ways);
  const reads = ways.some(({ way }) => way.reference);
  $("reference-button").hidden = !reads;
  $("references").replaceChildren();
  if (reads) pickers("references", target, (file) => choose({ reference: { file } }));
  pickers("samples", source, load);
  $("results").replaceChildren(...ways.map(({ run, number }) => {
    const figure = document.createElement("figure");
    figure.innerHTML = '<img alt="the translation"><a download="translation.png">Save</a><figcaption></figcaption><div class="tiles"></div>';
    figure.id = `result-${number}`;
    const name = document.createElement("figcaption");
    name.textContent = run.name;
    figure.append(name);
    return figure;
  }));
  state.other = null;
  if (state.look.reference) state.look = { seed: Number($("seed").value) }; // it is of the domain that was left
  $("share").value = 0;
  shown($("share"));
  const first = $("samples").firstElementChild;
  if (first) first.click();
  else clear();
}

// Sliders come once the directions they move along are found, which large nets take minutes for.
function slide(ways) {
  const now = direction(), styled = ways.filter(({ way }) => way.style);
  $("slides").textContent = styled.length ? "looking for main directions ..." : "";
  if (!styled.length) return;
  newest(`slides ${$("direction").value}`, async () => {
    let most = 0;
    try { // run by run: a browser has few connections, and translations need some meanwhile
      for (const { number } of styled) most = Math.max(most, (await answer("slides", { run: number, ...now })).slides);
    } finally {
      if (isNow(now)) $("slides").replaceChildren(...[...Array(most).keys()].map((k) => slider(`Direction ${k + 1}`)));
    }
  });
}

function setImage(file, drawn) {
  state.image = { file, drawn };
  update();
  grid();
}

// --- the canvas ---

const pen = () => $("canvas").getContext("2d");

function resize(width, height) {
  Object.assign($("canvas"), { width, height });
  $("canvas").style.aspectRatio = `${width} / ${height}`;
  $("canvas").style.maxWidth = `${16 * Math.min(1, width / height)}rem`;
}

// The file itself is translated until something is drawn on it: then the canvas, which is as large, up to LONGEST.
function load(file) {
  const picture = new Image();
  picture.onload = () => {
    if (state.image.file !== file) return; // another one was chosen meanwhile
    state.isEmpty = false;
    const scale = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
    resize(Math.max(1, Math.round(picture.width * scale)), Math.max(1, Math.round(picture.height * scale)));
    pen().drawImage(picture, 0, 0, $("canvas").width, $("canvas").height);
  };
  picture.onerror = blank; // the server says what is wrong with it
  picture.src = file;
  setImage(file, false);
}

function blank() {
  state.isEmpty = true;
  resize(EMPTY, EMPTY);
  pen().fillStyle = "#000";
  pen().fillRect(0, 0, EMPTY, EMPTY);
}

function clear() {
  blank();
  setImage($("canvas").toDataURL("image/png"), true);
}

function place(event) {
  const box = $("canvas").getBoundingClientRect();
  return [(event.clientX - box.left) * $("canvas").width / box.width, (event.clientY - box.top) * $("canvas").height / box.height];
}

function stroke(event) {
  if (!drawing) return;
  const context = pen(), to = place(event);
  const lineWidth = Number($("width").value) * Math.max($("canvas").width, $("canvas").height) / EMPTY;
  Object.assign(context, { lineWidth, lineCap: "round", strokeStyle: $("color").value });
  context.beginPath();
  context.moveTo(...drawing);
  context.lineTo(...to);
  context.stroke();
  drawing = to;
  state.image = { file: $("canvas").toDataURL("image/png"), drawn: state.isEmpty };
  update();
}

async function take(file, act) {
  if (!file) return;
  try {
    act(await dataUrl(file));
  } catch (error) {
    say(error.message, true);
  }
}

function listen() {
  const canvas = $("canvas");
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    drawing = place(event);
    stroke(event);
  });
  canvas.addEventListener("pointermove", stroke);
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => { if (drawing) { drawing = null; grid(); } });
  }
  for (const name of ["dragover", "dragenter", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      canvas.classList.toggle("over", name === "dragover" || name === "dragenter");
    });
  }
  document.addEventListener("drop", (event) => take(event.dataTransfer.files[0], load));
  $("file").addEventListener("change", (event) => { take(event.target.files[0], load); event.target.value = ""; });
  $("reference").addEventListener("change", (event) => {
    take(event.target.files[0], (file) => choose({ reference: { file } }));
    event.target.value = "";
  });
  $("clear").addEventListener("click", clear);
  $("direction").addEventListener("change", turn);
  $("seed").addEventListener("input", () => {
    if ($("seed").checkValidity() && $("seed").value !== "") choose({ seed: Number($("seed").value) });
  });
  $("random").addEventListener("click", () => choose({ seed: Math.floor(Math.random() * 1e6) }));
  $("more").addEventListener("click", () => { state.first += GRID; grid(); });
  $("share").addEventListener("input", () => { shown($("share")); update(); });
}

async function start() {
  try {
    state.runs = await answer("runs");
  } catch (error) {
    say(error.message, true);
    return;
  }
  const ways = state.runs.flatMap((run) => run.directions);
  const names = new Set(ways.map(({ source, target }) => JSON.stringify([source, target])));
  for (const name of names) $("direction").add(new Option(JSON.parse(name).join(" to "), name));
  const styled = ways.find((way) => way.style) ?? ways[0];
  $("direction").value = JSON.stringify([styled.source, styled.target]);
  listen();
  turn();
}

start();
