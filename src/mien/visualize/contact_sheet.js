"use strict";
const sheet = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const make = (tag, text, kind) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text;
  if (kind) e.className = kind; return e; };
// answers to tasks that only the weights define: a word or a number each
const known = ["age", "gender", "expression", "expression7", "attributes", "pose"];
const own = f => Object.entries(f).filter(([n, v]) => v && !known.includes(n) && typeof v === "object").map(([, v]) =>
  v.probabilities ? v.label : v.estimate !== undefined ? (+v.estimate.toPrecision(3) + " " + v.unit).trim() : "").filter(Boolean);
const rates = v => v && typeof v === "object" && !Array.isArray(v) && Object.values(v).length
  && Object.values(v).every(p => typeof p === "number" && p >= 0 && p <= 1);
const words = name => name.replaceAll("_", " ");
const mood = f => f.expression || f.expression7;
const eyesOf = f => f.eyes ? (Math.min(f.eyes.left, f.eyes.right) >= 0.5 ? "open" : "closed") : undefined;
const looks = f => f.gaze ? (f.gaze.at_camera ? "at the camera" : "elsewhere") : undefined;
const likely = f => Object.entries(f.attributes || {}).filter(([, p]) => p >= 0.5).sort((a, b) => b[1] - a[1]).map(([n]) => n);
const option = (select, value, text) => { const o = make("option", text); o.value = value; select.append(o); };
const offer = (id, values) => { const list = [...new Set(values)].filter(v => v !== undefined);
  at(id).closest("label").hidden = !list.length; option(at(id), "", "any"); for (const v of list) option(at(id), v, words(String(v))); };

offer("person", sheet.faces.map(f => f.person).filter(p => p !== undefined).sort((a, b) => a - b));
for (const o of at("person").options) if (o.value === "0") o.textContent = "seen once";
offer("gender", sheet.faces.map(f => f.gender && f.gender.label).filter(Boolean).sort());
offer("mood", sheet.faces.flatMap(f => mood(f) ? Object.keys(mood(f).probabilities) : []));
offer("attribute", sheet.faces.flatMap(f => Object.keys(f.attributes || {})));
offer("eyes", sheet.faces.map(eyesOf));
offer("gaze", sheet.faces.map(looks));
at("quality").closest("label").hidden = !sheet.faces.some(f => f.quality);
at("has").closest("label").hidden = at("attribute").closest("label").hidden;
for (const id of ["young", "old"]) at(id).closest("label").hidden = !sheet.faces.some(f => f.age);

const cards = sheet.faces.map((f, i) => {
  const card = make("button"); card.type = "button"; f.place = i;
  const image = make("img"); image.src = "data:image/jpeg;base64," + f.thumb; image.alt = "face " + f.face + " of " + f.path;
  image.loading = "lazy"; card.append(image, make("span", f.name, "name")); card.title = f.path;
  const line = [f.gender && f.gender.label, f.age && Math.round(f.age.years) + " years", mood(f) && mood(f).label, ...own(f)].filter(Boolean);
  if (line.length) card.append(make("span", line.join(", ")));
  if (f.person !== undefined) card.append(make("span", f.person ? "person " + f.person : "seen once", "soft"));
  const few = (f.notable || []).slice(0, 3).map(words).join(", ");
  if (few) card.append(make("span", few, "soft"));
  card.onclick = () => show(f);
  f.text = [f.path, ...line, f.person ? "person " + f.person : "", ...likely(f)].join(" ").toLowerCase().replaceAll("_", " ");
  return card;
});

function row(table, name, value, share) {
  const r = make("tr"); r.append(make("td", words(name), "soft"), make("td", value)); table.append(r);
  if (share !== undefined) { const m = make("meter"); m.value = share; const d = make("td"); d.append(m); r.append(d); }
}
function show(f) {
  const box = at("detail"); box.replaceChildren();
  const image = make("img"); image.src = "data:image/jpeg;base64," + f.thumb; image.alt = "";
  const table = make("table");
  row(table, "face", f.face + " of " + f.faces + ", " + Math.round(f.box[2] - f.box[0]) + " px wide", f.score);
  for (const [name, v] of Object.entries(f)) {
    if (name === "age") row(table, name, Math.round(v.years) + " years (" + Math.round(v.low) + " to " + Math.round(v.high) + ")");
    else if (v && v.probabilities) for (const [n, p] of Object.entries(v.probabilities)) row(table, n, p.toFixed(2), p);
    else if (name === "gender") row(table, name, v.label, v.probability);
    else if (v && v.yaw !== undefined) row(table, name, "yaw " + v.yaw + ", pitch " + v.pitch
      + (v.roll === undefined ? ", " + looks(f) : ", roll " + v.roll));
    else if (v && v.classes) for (const [n, p] of Object.entries(v.classes)) row(table, n + " (share)", p.toFixed(3), p);
    else if (v && v.estimate !== undefined) row(table, name, +v.estimate.toPrecision(3) + " " + v.unit + " (" + +v.low.toPrecision(3)
      + " to " + +v.high.toPrecision(3) + ")");
    else if (rates(v)) for (const [n, p] of Object.entries(v)) row(table, n, p.toFixed(2), p);
  }
  const done = make("button", "Close"); done.onclick = () => box.close();
  // the title gets the focus, and what gets it is scrolled into view
  const title = make("h2", f.path); title.tabIndex = -1; title.autofocus = true;
  box.append(title, image, table, done); box.showModal(); box.scrollTop = 0;
}
function apply() {
  const text = at("text").value.toLowerCase().split(/\s+/).filter(Boolean), order = at("order").value, min = at("young").value,
    max = at("old").value, who = at("person").value, gender = at("gender").value, feel = at("mood").value, a = at("attribute").value,
    yes = at("has").value === "yes", eyes = at("eyes").value, gaze = at("gaze").value, good = at("quality").value;
  const fits = f => text.every(w => f.text.includes(w)) && (!who || String(f.person) === who) && (!gender || f.gender?.label === gender)
    && (!feel || mood(f)?.label === feel) && (min === "" || f.age?.years >= +min) && (max === "" || f.age?.years <= +max)
    && (!a || ((f.attributes?.[a] ?? -1) >= 0 && (f.attributes[a] >= 0.5) === yes))
    && (!eyes || eyesOf(f) === eyes) && (!gaze || looks(f) === gaze) && (good === "" || f.quality?.score >= +good);
  const by = { photo: f => f.place, young: f => f.age?.years ?? 999, old: f => -(f.age?.years ?? -1), large: f => f.box[0] - f.box[2],
    person: f => f.person || 1e9, quality: f => -(f.quality?.score ?? -1) }[order];
  let shown = 0;
  const sorted = [...sheet.faces].sort((x, y) => by(x) - by(y) || x.place - y.place);
  sorted.forEach(f => { const fit = fits(f); cards[f.place].hidden = !fit; shown += fit; });
  at("cards").append(...sorted.map(f => cards[f.place]));
  at("count").textContent = shown + " of " + sheet.faces.length + " faces in " + sheet.photos + " photos";
}
at("filters").addEventListener("input", apply);
at("filters").addEventListener("reset", () => setTimeout(apply));
at("filters").addEventListener("submit", e => e.preventDefault());
at("look").onclick = () => { const root = document.documentElement;
  const dark = root.dataset.look ? root.dataset.look === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.look = dark ? "light" : "dark"; };
if (sheet.errors.length) {
  at("errors").append(make("p", "Not read: " + sheet.errors.length));
  for (const e of sheet.errors) at("errors").append(make("div", e.path + ": " + e.code));
}
apply();
