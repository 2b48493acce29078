// The page: a picture comes in, its faces are asked for, drawn and told.
import { answersOf, el, shortly } from "./answers.js";
import { setUp } from "./compare.js";
import { draw, drawThumbnail } from "./draw.js";
import { setUp as setUpPeople } from "./people.js";

const get = (id) => document.getElementById(id);
const local = document.querySelector("meta[name=mien-mode]").content === "browser";
const server = await (local ? import("./local/ask.js") : import("./ask.js"));
const about = await (await fetch(new URL("about.json", import.meta.url))).json();

let shown = null; // {file, bitmap, record}
let chosen = -1;
let asking = null; // AbortController of the picture under way
let offer = null;
let kept = null; // a picture that came before there was anybody to read it
let asked = []; // the parts of the page that ask about the chosen face

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
    ? "Reads whole faces, in this browser: a picture never leaves this machine."
    : "Reads whole faces. Pictures go to this server's memory, and are gone when they are answered.";
  get("made").textContent = `mien ${about.version}; ${offer.model.name}, weights ${offer.model.sha256.slice(0, 12)}`;
  asked = [setUp, setUpPeople].map((part) => part(server, offer, selected, fail));
  document.body.dataset.ready = "yes";
  say("");
  if (kept) read(kept);
}

function selected() {
  if (!shown?.record || chosen < 0) return null;
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

// --- A picture

async function read(file) {
  kept = offer ? null : file;
  if (!offer) {
    const what = local ? "It is read as soon as the networks are loaded." : "It is read as soon as the server answers.";
    return say(`${file.name || "The picture"} is kept. ${what}`);
  }
  asking?.abort();
  const mine = (asking = new AbortController());
  forgive();
  if (file.size > offer.most) {
    return fail(new Error(`The picture has ${(file.size / 2 ** 20).toFixed(1)} MiB; this server takes ${(offer.most / 2 ** 20).toFixed(1)}. Save it smaller.`));
  }
  document.body.classList.add("busy");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    if (mine === asking) document.body.classList.remove("busy");
    return fail(new Error(`This browser cannot show ${file.name || "that"} as a picture. JPEG, PNG and WebP always work.`));
  }
  if (mine !== asking) return;
  shown = { file, bitmap, record: null };
  chosen = -1;
  document.querySelector("main").classList.add("shown");
  get("drop").hidden = true;
  get("picture").hidden = false;
  say("Reading the picture...");
  // the answers about the last picture stay where they are for this moment, but nobody can ask more of them
  get("answers").inert = true;
  get("spots").replaceChildren();
  get("download").hidden = true;
  for (const part of asked) part.refresh();
  render();
  try {
    const record = await server.analyze(file, local ? imageOf(bitmap) : null, mine.signal);
    if (mine !== asking) return;
    shown.record = record;
    chosen = record.faces.length ? 0 : -1;
    const ms = Math.round(Object.values(record.timing_ms).reduce((a, b) => a + b, 0));
    const n = record.faces.length;
    say(n ? `${n} ${n === 1 ? "face" : "faces"} read in ${ms} ms.` : "No face was found. One larger or less turned away may be.");
    get("answers").hidden = n === 0;
    get("layers").hidden = n === 0;
    get("download").hidden = false;
    document.querySelector("main").classList.toggle("read", n > 0);
    get("answers").inert = false;
    list();
  } catch (error) {
    if (error.name === "AbortError" || mine !== asking) return;
    get("answers").hidden = get("layers").hidden = true;
    document.querySelector("main").classList.remove("read");
    fail(error);
  } finally {
    if (mine === asking) document.body.classList.remove("busy");
  }
  render();
}

function list() {
  const { bitmap, record } = shown;
  get("count").textContent = record.faces.length === 1 ? "One face" : `${record.faces.length} faces`;
  get("faces").replaceChildren(...record.faces.map((face, i) => {
    const canvas = el("canvas", { width: 132, height: 132, "aria-hidden": "true" });
    drawThumbnail(canvas, bitmap, record, face);
    const button = el("button", { type: "button", "aria-label": `Face ${i + 1}: ${shortly(face)}` }, canvas, el("span", shortly(face)));
    // by click, Enter or the space bar: what is enrolled must not change when the pointer or the focus passes over a face
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
  for (const part of asked) part.refresh();
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

/** The chosen face alone, large. */
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
  if (target.files[0]) read(target.files[0]);
  target.value = ""; // the same file may be chosen again
});

addEventListener("paste", ({ clipboardData }) => {
  const file = [...clipboardData.files].find((f) => f.type.startsWith("image/"));
  if (file) read(file);
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
  const [file] = event.dataTransfer.files;
  if (file) read(file);
  else fail(new Error("That was no file. Save the picture first, then drop the file."));
});

get("camera").addEventListener("click", async () => {
  forgive();
  try {
    // not there at all where the page came neither over https nor from this machine
    if (!navigator.mediaDevices) throw new Error("browsers lend the camera only to pages of this machine or over https");
    get("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 } } });
  } catch (error) {
    return fail(new Error(`The camera cannot be used: ${error.message}.`));
  }
  await get("video").play();
  get("camera-dialog").showModal();
});
get("camera-dialog").addEventListener("close", () => {
  for (const track of get("video").srcObject?.getTracks() ?? []) track.stop();
  get("video").srcObject = null;
});
get("leave").addEventListener("click", () => get("camera-dialog").close());
get("shoot").addEventListener("click", () => {
  const video = get("video");
  const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  get("camera-dialog").close();
  canvas.toBlob((blob) => read(new File([blob], "camera.png", { type: "image/png" })), "image/png");
});

get("download").addEventListener("click", () => {
  const { file, record } = shown;
  const blob = new Blob([JSON.stringify({ ...record, path: file.name || null }, null, 1)], { type: "application/json" });
  const link = el("a", { href: URL.createObjectURL(blob), download: `${(file.name || "picture").replace(/\.\w+$/, "")}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

get("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  server.useKey(get("key").value);
  start();
});

const [early] = get("file").files; // chosen before this script listened
if (early) read(early);
start();
