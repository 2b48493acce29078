"""A contact sheet: the faces of many photos in one HTML file that needs nothing but a browser.

Thumbnails are inside the file, and so is everything else: it may be mailed or kept, and its content policy
    forbids it to ask
any server for anything. Embeddings and landmarks are left out.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mien import geometry
from mien.errors import UsageError
from mien.tasks.attribute_rates import notable
from mien.types import Crop, Face, Pixels

THUMB = 112  # pixels
_TOLD_ELSEWHERE = frozenset(("Male", "Young", "Attractive"))
_LEFT_OUT = frozenset(("points5", "landmarks", "wflw98", "cofw29", "aflw19", "identity", "identity512"))

STYLE = """
:root { color-scheme: light dark; --ground: #fafaf8; --card: #fff; --ink: #1b1d22; --soft: #646a76; --line: #dcdcd6; --mark: #0a7d5c }
:root[data-look=dark] { color-scheme: dark }
:root[data-look=light] { color-scheme: light }
@media (prefers-color-scheme: dark) { :root:not([data-look=light]) {
  --ground: #16181c; --card: #20232a; --ink: #e9eaee; --soft: #9aa1ae; --line: #343943; --mark: #35d3a2 } }
:root[data-look=dark] { --ground: #16181c; --card: #20232a; --ink: #e9eaee; --soft: #9aa1ae; --line: #343943; --mark: #35d3a2 }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink); font: 14px/1.45 system-ui, sans-serif }
header { position: sticky; top: 0; z-index: 1; padding: 10px 16px; background: var(--ground); border-bottom: 1px solid var(--line) }
h1 { display: inline; margin: 0 12px 0 0; font-size: 17px }
form { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: end; margin-top: 8px }
label { display: grid; gap: 2px; color: var(--soft); font-size: 12px }
input, select, button { font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 4px 8px }
input[type=number] { width: 5.5em }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); gap: 12px; padding: 16px }
main > button { display: grid; justify-items: center; align-content: start; gap: 2px; padding: 10px; text-align: center; cursor: pointer;
  content-visibility: auto; contain-intrinsic-size: 148px 210px }
main > button:hover, :focus-visible { outline: 2px solid var(--mark); outline-offset: 1px }
main img { border-radius: 6px; width: 112px; height: 112px }
.name { max-width: 100%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-weight: 600 }
.soft, #errors { color: var(--soft); font-size: 12px }
[hidden] { display: none !important }
dialog { max-width: min(640px, 94vw); color: var(--ink); background: var(--card); border: 1px solid var(--line); border-radius: 10px }
dialog img { float: right; margin: 0 0 8px 12px; border-radius: 6px }
dialog h2 { margin: 0 0 6px; font-size: 16px; overflow-wrap: anywhere }
td { padding: 1px 12px 1px 0; vertical-align: top }
meter { width: 90px }
#errors { padding: 0 16px 16px; overflow-wrap: anywhere }
"""

SCRIPT = """
"use strict";
const sheet = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const make = (tag, text, kind) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text;
  if (kind) e.className = kind; return e; };
const words = name => name.replaceAll("_", " ");
const mood = f => f.expression || f.expression7;
const likely = f => Object.entries(f.attributes || {}).filter(([, p]) => p >= 0.5).sort((a, b) => b[1] - a[1]).map(([n]) => n);
const option = (select, value, text) => { const o = make("option", text); o.value = value; select.append(o); };
const offer = (id, values) => { const list = [...new Set(values)].filter(v => v !== undefined);
  at(id).closest("label").hidden = !list.length; option(at(id), "", "any"); for (const v of list) option(at(id), v, words(String(v))); };

offer("person", sheet.faces.map(f => f.person).filter(p => p !== undefined).sort((a, b) => a - b));
for (const o of at("person").options) if (o.value === "0") o.textContent = "seen once";
offer("gender", sheet.faces.map(f => f.gender && f.gender.label).filter(Boolean).sort());
offer("mood", sheet.faces.flatMap(f => mood(f) ? Object.keys(mood(f).probabilities) : []));
offer("attribute", sheet.faces.flatMap(f => Object.keys(f.attributes || {})));
at("has").closest("label").hidden = at("attribute").closest("label").hidden;
for (const id of ["young", "old"]) at(id).closest("label").hidden = !sheet.faces.some(f => f.age);

const cards = sheet.faces.map((f, i) => {
  const card = make("button"); card.type = "button"; f.place = i;
  const image = make("img"); image.src = "data:image/jpeg;base64," + f.thumb; image.alt = "face " + f.face + " of " + f.path;
  image.loading = "lazy"; card.append(image, make("span", f.name, "name")); card.title = f.path;
  const line = [f.gender && f.gender.label, f.age && Math.round(f.age.years) + " years", mood(f) && mood(f).label].filter(Boolean);
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
    else if (v && v.yaw !== undefined) row(table, name, "yaw " + v.yaw + ", pitch " + v.pitch + ", roll " + v.roll);
    else if (v && v.classes) for (const [n, p] of Object.entries(v.classes)) row(table, n + " (share)", p.toFixed(3), p);
    else if (["attributes", "units8", "units12"].includes(name)) for (const [n, p] of Object.entries(v)) row(table, n, p.toFixed(2), p);
  }
  const done = make("button", "Close"); done.onclick = () => box.close();
  const title = make("h2", f.path); title.tabIndex = -1; title.autofocus = true; // what gets the focus is scrolled into view
  box.append(title, image, table, done); box.showModal(); box.scrollTop = 0;
}
function apply() {
  const text = at("text").value.toLowerCase().split(/\\s+/).filter(Boolean), order = at("order").value, min = at("young").value,
    max = at("old").value, who = at("person").value, gender = at("gender").value, feel = at("mood").value, a = at("attribute").value,
    yes = at("has").value === "yes";
  const fits = f => text.every(w => f.text.includes(w)) && (!who || String(f.person) === who) && (!gender || f.gender?.label === gender)
    && (!feel || mood(f)?.label === feel) && (min === "" || f.age?.years >= +min) && (max === "" || f.age?.years <= +max)
    && (!a || ((f.attributes?.[a] ?? -1) >= 0 && (f.attributes[a] >= 0.5) === yes));
  const by = { photo: f => f.place, young: f => f.age?.years ?? 999, old: f => -(f.age?.years ?? -1), large: f => f.box[0] - f.box[2],
    person: f => f.person || 1e9 }[order];
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
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src {style_hash}; script-src {script_hash}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1><span id="count" class="soft" aria-live="polite"></span>
<form id="filters">
<label>Search<input id="text" type="search" placeholder="name, smiling, hat ..."></label>
<label>Person<select id="person"></select></label>
<label>Age from<input id="young" type="number" min="0" max="120"></label>
<label>to<input id="old" type="number" min="0" max="120"></label>
<label>Gender, as perceived<select id="gender"></select></label>
<label>Expression<select id="mood"></select></label>
<label>Attribute<select id="attribute"></select></label>
<label>is<select id="has"><option value="yes">likely</option><option value="no">unlikely</option></select></label>
<label>Order<select id="order"><option value="photo">as read</option><option value="large">largest first</option>
<option value="young">youngest first</option><option value="old">oldest first</option>
<option value="person">by person</option></select></label>
<button type="reset">Clear</button><button id="look" type="button">Light / dark</button>
</form>
</header>
<noscript><p>This sheet needs JavaScript; it asks no server for anything.</p></noscript>
<main id="cards"></main>
<div id="errors"></div>
<dialog id="detail"></dialog>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


class ContactSheet:
    """Collects readings and writes them as one HTML file; about 5 KB a face are kept in memory until then.

    Args:
        path: FILE.html.
        title: of the page; None for "Faces" and the folder that all photos share.

    Raises:
        UsageError: another suffix.
    """

    def __init__(self, path: str | os.PathLike[str], title: str | None = None):
        self.path, self.title = Path(path), title
        if self.path.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"a sheet is FILE.html, not {os.fspath(path)!r}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.photos, self.faces, self.errors = 0, list[dict[str, Any]](), list[dict[str, str]]()

    def add(self, reading: Any, persons: list[int] | None = None) -> None:
        """A photo's `Reading`; persons: a number a face, 0 for nobody's, see `mien.recognition.clustering`."""
        if reading.error is not None:
            self.errors.append({"path": str(reading.path), "code": reading.error.code})
            return
        self.photos += 1
        for number, face in enumerate(reading, 1):
            answers = {k: v for k, v in face.to_dict().items() if k.partition("@")[0] not in _LEFT_OUT}
            card = {
                "path": str(reading.path),
                "face": number,
                "faces": len(reading),
                "thumb": thumb(face, (reading.photo.width, reading.photo.height)),
                **answers,
            }
            if "attributes" in face:
                likely = notable(face["attributes"].probabilities)
                card["notable"] = [n for n in likely if n not in _TOLD_ELSEWHERE]
            if persons is not None:
                card["person"] = persons[number - 1]
            self.faces.append(card)

    def close(self) -> None:
        """Write the file: under another name first, so that a half one never stands there."""
        folder, names = short_names([card["path"] for card in self.faces])
        for card, name in zip(self.faces, names, strict=True):
            card["name"] = name
        title = self.title if self.title is not None else f"Faces in {folder}" if folder else "Faces"
        data = json.dumps({"photos": self.photos, "faces": self.faces, "errors": self.errors})
        page = PAGE.format(
            title=html.escape(title),
            style=STYLE,
            script=SCRIPT,
            style_hash=_policy(STYLE),
            script_hash=_policy(SCRIPT),
            data=data.replace("<", "\\u003c"),
        )
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(page, encoding="utf-8")
        os.replace(part, self.path)


def _policy(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def short_names(paths: Sequence[str]) -> tuple[str, list[str]]:
    """(the folder that all paths share, each path below it); different paths have different names."""
    split = [re.split(r"[\\/]", path) for path in paths]
    shared = 0
    while split and all(len(parts) > shared + 1 and parts[shared] == split[0][shared] for parts in split):
        shared += 1
    folder = "/".join(split[0][:shared]) if split else ""
    return folder, ["/".join(parts[shared:]) for parts in split]


def thumb(face: Face, size: tuple[int, int] | None = None) -> str:
    """The aligned face as a small JPEG in base64.

    Args:
        face: with its crop.
        size: (width, height) of the photo: what lies outside it is filled from its edge. None leaves it black.

    Raises:
        UsageError: the face has no crop.
    """
    if face.crop is None:
        raise UsageError("this face has no crop to show; take it from a Reader")
    pixels = cv2.resize(face.crop.pixels, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    if size is not None:
        pixels = _filled(np.asarray(pixels, np.uint8), face.crop, size)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=80)
    return base64.b64encode(data.getvalue()).decode()


def _filled(pixels: Pixels, crop: Crop, size: tuple[int, int]) -> Pixels:
    """A thumbnail whose places outside the photo have the color of the nearest place inside, blurred."""
    height, width = crop.pixels.shape[:2]
    columns, rows = np.meshgrid(
        (np.arange(THUMB) + 0.5) / THUMB * width, (np.arange(THUMB) + 0.5) / THUMB * height
    )
    places = np.stack([columns.ravel(), rows.ravel()], 1) - 0.5
    photo = geometry.move_points(places, geometry.invert(crop.from_photo))
    rim = 1.5 / geometry.scale_of(crop.from_photo)  # its last pixels are mixed with black
    inside = ((photo >= rim) & (photo <= np.array(size) - 1 - rim)).all(1).reshape(THUMB, THUMB)
    if inside.all() or not inside.any():
        return pixels
    _, nearest = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colors = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
    colors[nearest[inside]] = pixels[inside]
    spread = cv2.GaussianBlur(colors[nearest], (0, 0), THUMB / 28)
    return np.where(inside[..., None], pixels, spread).astype(np.uint8)
