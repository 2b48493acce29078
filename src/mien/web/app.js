// The page: reads pictures, draws their faces and shows the answers.
import { answersOf, el, shortly } from "./answers.js";
import { setUp as setUpCamera } from "./camera.js";
import { setUp } from "./compare.js";
import { draw, drawThumbnail } from "./draw.js";
import { setUp as setUpPeople } from "./people.js";

const get = (id) => document.getElementById(id);
const local = document.querySelector("meta[name=mien-mode]").content === "browser";
const server = await (local ? import("./local/ask.js") : import("./ask.js"));
const about = await (await fetch(new URL("about.json", import.meta.url))).json();

let album = []; // the pictures that came together: {file, record, error, thumbnail}
let shown = null; // the picture in view: {entry, file, bitmap, record, live}
let chosen = -1;
let asking = null; // AbortController of the pictures under way
let offer = null;
let kept = null; // pictures that came before there was anybody to read them
let panels = []; // the parts of the page that work on the selected face

function say(text) {
  get("status").textContent = text;
}

function fail(error) {
  const box = get("error");
  box.replaceChildren(error.message);
  if (error.code || error.id) box.append(el("small", [error.code, error.id && `request ${error.id}`].filter(Boolean).join("; ")));
  box.hidden = false;
  if (error.status === 401) get("key-form").hidden = false;
  say("");
}

function forgive() {
  get("error").hidden = true;
}

// --- Start

async function start() {
  say(local ? "Loading the networks..." : "");
  try {
    offer = await server.offer();
  } catch (error) {
    return fail(error);
  }
  forgive();
  get("key-form").hidden = true;
  get("where").textContent = local
    ? "Reads whole faces in this browser: a picture never leaves this machine."
    : "Reads whole faces. Pictures stay in this server's memory and are deleted after the reply.";
  get("made").textContent = `mien ${about.version}; ${offer.model.name}, weights ${offer.model.sha256.slice(0, 12)}`;
  panels = [setUp, setUpPeople].map((part) => part(server, offer, selected, fail));
  document.body.dataset.ready = "yes";
  say("");
  if (kept) read(kept);
}

function selected() {
  if (!shown?.record || chosen < 0 || shown.live) return null; // while the camera runs, the next frame may show somebody else
  const { file, bitmap, record } = shown;
  return { file, bitmap, record, face: chosen, image: () => imageOf(bitmap) };
}

/** The upright pixels as they are: no color conversion, transparent parts on white, as the server does it. */
function imageOf(bitmap) {
  const canvas = el("canvas", { width: bitmap.width, height: bitmap.height });
  const ctx = canvas.getContext("2d", { willReadFrequently: true });
  ctx.fillStyle = "#fff";
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.drawImage(bitmap, 0, 0);
  return ctx.getImageData(0, 0, canvas.width, canvas.height);
}

// --- Pictures

/** Reads files one after the other; the first one is shown until another is selected. */
async function read(given) {
  const files = [given].flat();
  kept = offer ? null : files;
  if (!offer) {
    const what = files.length > 1 ? `${files.length} pictures are` : `${files[0].name || "The picture"} is`;
    const when = local ? "as soon as the networks are loaded." : "as soon as the server answers.";
    return say(`${what} kept, and read ${when}`);
  }
  const mine = begin();
  album = files.map((file) => ({ file, record: null, error: null, thumbnail: null }));
  const pictures = album;
  await view(pictures[0], mine);
  for (const entry of pictures) {
    if (mine !== asking) return;
    await readOne(entry, mine);
    // no server, no key or too many requests: the others would be refused as well
    if (mine === asking && [0, 401, 429].includes(entry.error?.status)) {
      for (const other of pictures) if (!other.record) other.error ??= entry.error;
      return listPictures(mine);
    }
  }
}

/** Ends the work in progress. */
function begin() {
  asking?.abort();
  forgive();
  document.body.classList.remove("busy");
  album = [];
  get("pictures").hidden = true;
  return (asking = new AbortController());
}

async function bitmapOf(file) {
  if (file.size > offer.maxBytes) {
    throw new Error(`${file.name || "The picture"} has ${(file.size / 2 ** 20).toFixed(1)} MiB; this server takes ${(offer.maxBytes / 2 ** 20).toFixed(1)}. Save it smaller.`);
  }
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`This browser cannot show ${file.name || "that"} as a picture. JPEG, PNG and WebP always work.`);
  }
}

async function readOne(entry, mine) {
  try {
    const bitmap = shown?.entry === entry ? shown.bitmap : await bitmapOf(entry.file);
    if (mine !== asking) return;
    entry.record = await server.analyze(entry.file, local ? imageOf(bitmap) : null, mine.signal);
    if (mine !== asking) return;
    entry.thumbnail = thumbnailOf(bitmap);
  } catch (error) {
    if (error.name === "AbortError" || mine !== asking) return;
    entry.error ??= error;
  }
  listPictures(mine);
  if (!shown || shown.entry !== entry) return;
  shown.record = entry.record;
  present();
}

/** Shows a picture, read or not. */
async function view(entry, mine) {
  let bitmap = null;
  try {
    bitmap = await bitmapOf(entry.file);
  } catch (error) {
    entry.error = error;
  }
  if (mine !== asking) return;
  if (bitmap) shown = { entry, file: entry.file, bitmap, record: entry.record, live: false };
  listPictures(mine);
  if (bitmap) present();
  else fail(entry.error);
}

/** The shown picture and its state. */
function present() {
  const { entry, record } = shown;
  const waits = !record && !entry?.error;
  document.querySelector("main").classList.add("shown");
  get("drop").hidden = true;
  get("picture").hidden = false;
  // the answers of the previous picture stay visible for a moment, without their actions
  document.body.classList.toggle("busy", waits);
  get("answers").inert = waits;
  get("download").hidden = !record;
  const n = record?.faces.length ?? 0;
  if (shown.live) chosen = followed(record);
  else chosen = n ? 0 : -1;
  if (waits) {
    say("Reading the picture...");
    get("spots").replaceChildren();
    for (const part of panels) part.refresh();
    return render();
  }
  get("answers").hidden = get("layers").hidden = n === 0;
  document.querySelector("main").classList.toggle("read", n > 0);
  if (record && !shown.live) {
    forgive();
    const ms = Math.round(Object.values(record.timing_ms).reduce((a, b) => a + b, 0));
    say(n ? `${n} ${n === 1 ? "face" : "faces"} read in ${ms} ms.` : "No face was found. Try a larger face, or one turned to the camera.");
  }
  if (record) list();
  else fail(entry.error);
  render();
}

let last = null; // the middle of the face that was chosen in the last frame

/** The face of a new frame nearest to the selected one of the last frame. */
function followed(record) {
  const middles = record.faces.map(({ box: [x1, y1, x2, y2] }) => [(x1 + x2) / 2, (y1 + y2) / 2]);
  const far = ([x, y]) => (last ? Math.hypot(x - last[0], y - last[1]) : 0);
  const index = middles.reduce((best, m, i) => (best < 0 || far(m) < far(middles[best]) ? i : best), -1);
  last = middles[index] ?? last;
  return index;
}

function thumbnailOf(bitmap) {
  const canvas = el("canvas", { width: 132, height: 132, "aria-hidden": "true" });
  const scale = Math.max(132 / bitmap.width, 132 / bitmap.height);
  const size = [bitmap.width * scale, bitmap.height * scale];
  canvas.getContext("2d").drawImage(bitmap, (132 - size[0]) / 2, (132 - size[1]) / 2, ...size);
  return canvas;
}

/** The row of pictures, if there are several. */
function listPictures(mine) {
  const row = get("pictures");
  row.hidden = album.length < 2;
  if (row.hidden) return;
  row.replaceChildren(...album.map((entry, i) => {
    const name = entry.file.name || `picture ${i + 1}`;
    const n = entry.record?.faces.length;
    const state = entry.error ? "not read" : n === undefined ? "waits" : n === 1 ? "1 face" : `${n} faces`;
    const face = entry.thumbnail ?? el("canvas", { width: 132, height: 132, "aria-hidden": "true" });
    const button = el("button", { type: "button", title: name, "aria-label": `${name}: ${state}`, "aria-pressed": String(shown?.entry === entry) }, face, el("span", state));
    button.addEventListener("click", () => view(entry, mine));
    return el("li", button);
  }));
}

/** Reads one picture of the running camera. Returns false to stop. */
async function readFrame(file, mine) {
  try {
    const bitmap = await createImageBitmap(file);
    const record = await server.analyze(file, local ? imageOf(bitmap) : null, mine.signal);
    if (mine !== asking) return false;
    shown = { entry: null, file, bitmap, record, live: true };
    present();
    return true;
  } catch (error) {
    if (error.name !== "AbortError" && mine === asking) fail(error);
    return false;
  }
}

function list() {
  const { bitmap, record } = shown;
  get("count").textContent = record.faces.length === 1 ? "One face" : `${record.faces.length} faces`;
  get("faces").replaceChildren(...record.faces.map((face, i) => {
    const canvas = el("canvas", { width: 132, height: 132, "aria-hidden": "true" });
    drawThumbnail(canvas, bitmap, record, face);
    const button = el("button", { type: "button", "aria-label": `Face ${i + 1}: ${shortly(face)}` }, canvas, el("span", shortly(face)));
    // only click, Enter or the space bar select: moving the pointer or the focus must not change what is enrolled
    button.addEventListener("click", () => choose(i));
    return el("li", button);
  }));
  get("spots").replaceChildren(...record.faces.map((face, i) => {
    const [x1, y1, x2, y2] = face.box;
    const spot = el("i", { title: shortly(face) });
    const place = { left: x1 / record.width, top: y1 / record.height, width: (x2 - x1) / record.width, height: (y2 - y1) / record.height };
    for (const [name, v] of Object.entries(place)) spot.style.setProperty(name, `${100 * v}%`);
    spot.addEventListener("click", () => choose(i));
    return spot;
  }));
  tell();
}

function choose(index) {
  if (index === chosen) return;
  chosen = index;
  tell();
  render();
}

function tell() {
  [...get("faces").querySelectorAll("button")].forEach((b, i) => b.setAttribute("aria-pressed", String(i === chosen)));
  const open = [...get("face").querySelectorAll("details[open] b")].map((b) => b.textContent);
  get("face").replaceChildren(...(chosen < 0 ? [] : answersOf(shown.record.faces[chosen], about)));
  for (const d of get("face").querySelectorAll("details")) d.open = open.includes(d.querySelector("b").textContent);
  for (const part of panels) part.refresh();
}

// --- The canvas

function render() {
  if (!shown) return;
  const { bitmap, record } = shown;
  const room = get("picture").clientWidth;
  const width = Math.round(Math.min(room, bitmap.width * Math.max(1, Math.min(3, 480 / bitmap.height)), (0.74 * innerHeight * bitmap.width) / bitmap.height));
  const height = Math.round((width * bitmap.height) / bitmap.width);
  const canvas = get("canvas");
  const dense = devicePixelRatio || 1;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * dense);
  canvas.height = Math.round(height * dense);
  const show = { box: get("show-box").checked, points: get("show-points").checked, pose: get("show-pose").checked, opacity: get("opacity").value / 100 };
  draw(canvas, bitmap, record, about.sets, show, chosen);
  if (chosen >= 0) closeUp({ ...show, box: false });
  const faces = record?.faces.map((f, i) => `${i + 1}: ${shortly(f)}`).join("; ");
  canvas.setAttribute("aria-label", faces ? `The picture with its faces. ${faces}` : "The picture");
}

/** The selected face, enlarged. */
function closeUp(show) {
  const { bitmap, record } = shown;
  const canvas = get("close");
  const dense = devicePixelRatio || 1;
  [canvas.width, canvas.height] = [Math.round(canvas.clientWidth * dense), Math.round(canvas.clientHeight * dense)];
  if (!canvas.width || !canvas.height) return;
  const [x1, y1, x2, y2] = record.faces[chosen].box;
  const height = Math.max(x2 - x1, y2 - y1) * 1.5;
  const width = (height * canvas.width) / canvas.height;
  const part = { x: (x1 + x2 - width) / 2 + 0.5, y: (y1 + y2 - height) / 2 + 0.5 - height * 0.04, width };
  draw(canvas, bitmap, record, about.sets, show, -1, part);
}

for (const id of ["show-box", "show-points", "show-pose", "opacity"]) get(id).addEventListener("input", render);
new ResizeObserver(() => requestAnimationFrame(render)).observe(get("stage"));

// --- Ways in

get("file").addEventListener("change", ({ target }) => {
  if (target.files.length) read([...target.files]);
  target.value = ""; // the same file may be chosen again
});

addEventListener("paste", ({ clipboardData }) => {
  const files = [...clipboardData.files].filter((f) => f.type.startsWith("image/"));
  if (files.length) read(files);
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const files = [...event.dataTransfer.files];
  if (files.length) read(files);
  else fail(new Error("This is no file. Save the picture first, then drop the file."));
});

get("example").addEventListener("click", async () => {
  try {
    const reply = await fetch(new URL("example.jpg", import.meta.url));
    if (!reply.ok) throw new Error(`The example is missing: ${reply.status}.`);
    read(new File([await reply.blob()], "example.jpg", { type: "image/jpeg" }));
  } catch (error) {
    fail(error);
  }
});

const camera = setUpCamera({
  failed: fail,
  taken: read,
  /** Reads frames until the camera is stopped. next: () -> File, or null at the end. */
  async live(next) {
    if (!offer) return fail(new Error("The camera can be used once the networks are loaded."));
    const mine = begin();
    last = null;
    say(local ? "The camera runs; no picture leaves this machine." : "The camera runs; its pictures are sent to this server one after the other and are not stored.");
    for (let file = await next(); file && mine === asking; file = await next()) {
      if (!(await readFrame(file, mine))) break;
    }
    if (mine !== asking) return;
    if (shown?.live) shown.live = false; // the last frame stays as a picture
    for (const part of panels) part.refresh();
    if (get("error").hidden) say("The camera is off. The last picture stays.");
  },
});
addEventListener("visibilitychange", () => document.hidden && camera.stop());

get("download").addEventListener("click", () => {
  // one picture is a record, several are a list of records
  const read = album.length > 1 ? album.filter((entry) => entry.record) : [shown];
  const records = read.map(({ file, record }) => ({ ...record, path: file.name || null }));
  const name = album.length > 1 ? "pictures" : (shown.file.name || "picture").replace(/\.\w+$/, "");
  const blob = new Blob([JSON.stringify(album.length > 1 ? records : records[0], null, 1)], { type: "application/json" });
  const link = el("a", { href: URL.createObjectURL(blob), download: `${name}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

get("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  server.useKey(get("key").value);
  start();
});

const early = [...get("file").files]; // chosen before this script listened
if (early.length) read(early);
start();
