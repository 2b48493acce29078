// Faces in a photo: mien/detect.py and the reading part of mien/tasks/faces.py, in JavaScript.
import { iou } from "./geometry.js";
import { even, fill, resized } from "./pixels.js";

const STEP = 32;
const TILE = 256;
const LARGE = 0.3;
const LARGE_SCORE = 0.3;
const STRIDES = [8, 16, 32];

const up = (length) => Math.max(STEP, Math.ceil(even(length) / STEP) * STEP);
const side = ([x1, y1, x2, y2]) => Math.sqrt((x2 - x1) * (y2 - y1));
export const area = ([x1, y1, x2, y2]) => Math.max(0, x2 - x1) * Math.max(0, y2 - y1);

const whole = (width, height, scale) => [Math.max(1, even(width * scale)), Math.max(1, even(height * scale))];
const look = (scale, window, canvas, more) => ({ scale, window, canvas, corner: [0, 0], smallest: 0, largest: Infinity, ...more });

/** The main and the far look at a photo of that size: scale, window, canvas, corner, sides of boxes believed. */
export function plan(width, height, { main, far, enlarge }) {
  const longer = Math.max(width, height);
  let scale = Math.min(main / longer, enlarge);
  let [w, h] = whole(width, height, scale);
  const first = look(scale, [0, 0, w, h], [up(w), up(h)], { largest: 0.7 * main });
  scale = far / longer;
  [w, h] = whole(width, height, scale);
  const square = up(1.5 * far);
  const corner = [Math.floor((square - w) / 2), Math.floor((square - h) / 2)];
  return [first, look(scale, [0, 0, w, h], [square, square], { corner, smallest: 24 })];
}

/** [from, to] of the fewest tiles of that side over a length, which share `share` or more. */
function spans(length, part, share) {
  if (length <= part) return [[0, length]];
  const n = Math.ceil((length - share) / (part - share));
  return Array.from({ length: n }, (_, i) => Math.floor(((length - part) * i) / (n - 1))).map((start) => [start, start + part]);
}

/** The tile whose edges are farthest from a place; the first of equals. */
const mostInside = (tiles, at) => tiles.reduce((best, t) => (Math.min(at - t[0], t[1] - at) > Math.min(at - best[0], best[1] - at) ? t : best));

/** Nearer looks at the suspects among boxes of the photo: small tiles around them, or all large ones where those are fewer pixels. */
export function nearer(width, height, boxes, { main, near }, share = 64) {
  const longer = Math.max(width, height);
  if (!near || longer <= 1.2 * main) return [];
  const scale = Math.min(1, near / longer);
  const [w, h] = whole(width, height, scale);
  const small = [w, h].map((length) => spans(length, TILE, share));
  const held = new Map();
  for (const [x1, y1, x2, y2] of boxes) {
    if (side([x1, y1, x2, y2]) * scale > share) continue;
    const tile = [mostInside(small[0], ((x1 + x2) / 2) * scale), mostInside(small[1], ((y1 + y2) / 2) * scale)];
    held.set(tile.join(), tile);
  }
  const [xs, ys] = [w, h].map((length) => spans(length, length <= main + share ? length : up(length / 2 + share / 2), share));
  const pixels = (tiles) => tiles.reduce((sum, [[x1, x2], [y1, y2]]) => sum + (x2 - x1) * (y2 - y1), 0);
  let tiles = ys.flatMap((y) => xs.map((x) => [x, y]));
  if (pixels([...held.values()]) < pixels(tiles)) {
    tiles = [...held.values()].sort(([a, b], [c, d]) => a[0] - c[0] || b[0] - d[0]);
  }
  return tiles.map(([[x1, x2], [y1, y2]]) => look(scale, [x1, y1, x2, y2], [up(x2 - x1), up(y2 - y1)], { largest: share }));
}

/** Rows above a score -> [{box, score, points}], in pixels of the network's picture. */
export function decode(raw, [width, height], threshold) {
  const least = Math.log(threshold / (1 - threshold));
  const found = [];
  let row = 0;
  for (const s of STRIDES) {
    const columns = Math.floor(width / s);
    const cells = columns * Math.floor(height / s);
    for (let cell = 0; cell < cells; cell++, row++) {
      const at = row * 15;
      if (!(raw[at] >= least)) continue;
      const x = ((cell % columns) + 0.5) * s - 0.5;
      const y = (Math.floor(cell / columns) + 0.5) * s - 0.5;
      const [mx, my] = [x + raw[at + 1] * s, y + raw[at + 2] * s];
      const [hw, hh] = [3, 4].map((k) => (Math.exp(Math.min(5, Math.max(-4, raw[at + k]))) * s) / 2);
      const points = [0, 1, 2, 3, 4].map((k) => [x + raw[at + 5 + 2 * k] * s, y + raw[at + 6 + 2 * k] * s]);
      found.push({ box: [mx - hw, my - hh, mx + hw, my + hh], score: 1 / (1 + Math.exp(-raw[at])), points });
    }
  }
  return found;
}

/** One a face, best score first; the winner is the weighted mean of those that agree with it well. */
export function merge(rows, overlap) {
  const kept = [];
  let rest = [...rows].sort((a, b) => b.score - a.score);
  while (rest.length) {
    const best = rest[0];
    const same = rest.length > 1 ? rest.filter((r) => iou(best.box, r.box) > 0.7) : rest;
    const total = same.reduce((s, r) => s + r.score, 0);
    const mean = (of) => Math.fround(same.reduce((s, r) => s + (r.score / total) * of(r), 0));
    const box = [0, 1, 2, 3].map((k) => mean((r) => r.box[k]));
    const points = best.points.map((_, i) => [mean((r) => r.points[i][0]), mean((r) => r.points[i][1])]);
    kept.push({ box, score: best.score, points });
    rest = rest.filter((r) => r !== best && iou(best.box, r.box) <= overlap);
  }
  return kept;
}

/** Without boxes that lie inside a larger, surer one. */
function alone(found) {
  const kept = [];
  for (const d of found) {
    const inside = kept.filter((k) => k.score > d.score).map((k) => {
      const box = [Math.max(d.box[0], k.box[0]), Math.max(d.box[1], k.box[1]), Math.min(d.box[2], k.box[2]), Math.min(d.box[3], k.box[3])];
      return area(box);
    });
    if (Math.max(0, ...inside) < 0.9 * area(d.box)) kept.push(d);
  }
  return kept;
}

/** Boxes that reach over an inner edge of the window: the neighbouring tile shows that face whole. */
function cut([x1, y1, x2, y2], box, width, height) {
  return (box[0] < x1 && x1 > 0) || (box[1] < y1 && y1 > 0) || (box[2] > x2 && x2 < width) || (box[3] > y2 && y2 < height);
}

/**
 * Photo -> faces, largest first, in photo pixels.
 * run: (Float32Array, [1, 3, h, w]) -> raw rows. about: the detector's part of model.json.
 */
export async function detect(photo, about, run) {
  const scaled = new Map();
  const seen = async (look, least) => {
    if (!scaled.has(look.scale)) scaled.set(look.scale, resized(photo, look.scale));
    const picture = scaled.get(look.scale);
    const [width, height] = look.canvas;
    const [left, top] = look.corner;
    const input = new Float32Array(3 * width * height);
    fill(input, 0, picture, look.window, about.view, width, height, left, top);
    const raw = await run(input, [1, 3, height, width]);
    const [dx, dy] = [look.window[0] - left, look.window[1] - top];
    const [hx, hy] = [photo.width / picture.width, photo.height / picture.height];
    const rows = [];
    for (const r of decode(raw, look.canvas, least)) {
      const box = r.box.map((v, k) => v + (k % 2 ? dy : dx));
      if (side(box) < look.smallest || side(box) > look.largest || cut(look.window, box, picture.width, picture.height)) continue;
      const home = ([x, y]) => [(x + 0.5) * hx - 0.5, (y + 0.5) * hy - 0.5];
      rows.push({ box: [...home(box.slice(0, 2)), ...home(box.slice(2))], score: r.score, points: r.points.map(([x, y]) => home([x + dx, y + dy])) });
    }
    return rows;
  };
  const [main, far] = plan(photo.width, photo.height, about);
  const suspects = await seen(main, about.suspect);
  const rows = suspects.filter((r) => r.score >= about.threshold);
  const looks = nearer(photo.width, photo.height, suspects.map((r) => r.box), about);
  if (!rows.length || suspects.some((r) => r.score >= LARGE_SCORE && side(r.box) * main.scale > LARGE * about.main)) looks.unshift(far);
  for (const look of looks) rows.push(...(await seen(look, about.threshold)));
  return alone(merge(rows, about.overlap).sort((a, b) => area(b.box) - area(a.box)));
}
