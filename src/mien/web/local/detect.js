// Faces in a photo: mien/inference/detector.py and the decoding of mien/tasks/detection.py, in JavaScript.
import { iou } from "./geometry.js";
import { even, fill, resized } from "./pixels.js";

const STEP = 32;
const TILE = 256;
const LARGE_SIDE = 0.3;
const LARGE_SCORE = 0.3;
const STRIDES = [8, 16, 32];

const roundUp = (length) => Math.max(STEP, Math.ceil(even(length) / STEP) * STEP);
const side = ([x1, y1, x2, y2]) => Math.sqrt((x2 - x1) * (y2 - y1));
export const area = ([x1, y1, x2, y2]) => Math.max(0, x2 - x1) * Math.max(0, y2 - y1);

const scaledSize = (width, height, scale) => [Math.max(1, even(width * scale)), Math.max(1, even(height * scale))];
const passAt = (scale, window, canvas, more) => ({ scale, window, canvas, corner: [0, 0], minSide: 0, maxSide: Infinity, ...more });

/** The base and the thumbnail pass of a photo: scale, window, canvas, corner, smallest and largest box kept. */
export function plan(width, height, { base, thumbnail, max_upscale: maxUpscale }) {
  const longer = Math.max(width, height);
  let scale = Math.min(base / longer, maxUpscale);
  let [w, h] = scaledSize(width, height, scale);
  const first = passAt(scale, [0, 0, w, h], [roundUp(w), roundUp(h)], { maxSide: 0.7 * base });
  scale = thumbnail / longer;
  [w, h] = scaledSize(width, height, scale);
  const square = roundUp(1.5 * thumbnail);
  const corner = [Math.floor((square - w) / 2), Math.floor((square - h) / 2)];
  return [first, passAt(scale, [0, 0, w, h], [square, square], { corner, minSide: 24 })];
}

/** [start, end] of the fewest tiles that cover a length; neighbors overlap by at least `overlap`. */
function spans(length, part, overlap) {
  if (length <= part) return [[0, length]];
  const n = Math.ceil((length - overlap) / (part - overlap));
  return Array.from({ length: n }, (_, i) => Math.floor(((length - part) * i) / (n - 1))).map((start) => [start, start + part]);
}

/** The tile whose edges are farthest from a coordinate; the first of equals. */
const bestTile = (tiles, at) => tiles.reduce((best, t) => (Math.min(at - t[0], t[1] - at) > Math.min(at - best[0], best[1] - at) ? t : best));

/** Tile passes for the candidates among the boxes: small tiles around them, or all large ones if those have fewer pixels. */
export function tilePasses(width, height, boxes, { base, tiles: tileSize }, overlap = 64) {
  const longer = Math.max(width, height);
  if (!tileSize || longer <= 1.2 * base) return [];
  const scale = Math.min(1, tileSize / longer);
  const [w, h] = scaledSize(width, height, scale);
  const small = [w, h].map((length) => spans(length, TILE, overlap));
  const chosen = new Map();
  for (const [x1, y1, x2, y2] of boxes) {
    if (side([x1, y1, x2, y2]) * scale > overlap) continue;
    const tile = [bestTile(small[0], ((x1 + x2) / 2) * scale), bestTile(small[1], ((y1 + y2) / 2) * scale)];
    chosen.set(tile.join(), tile);
  }
  const [xs, ys] = [w, h].map((length) => spans(length, length <= base + overlap ? length : roundUp(length / 2 + overlap / 2), overlap));
  const pixels = (some) => some.reduce((sum, [[x1, x2], [y1, y2]]) => sum + (x2 - x1) * (y2 - y1), 0);
  let tiles = ys.flatMap((y) => xs.map((x) => [x, y]));
  if (pixels([...chosen.values()]) < pixels(tiles)) {
    tiles = [...chosen.values()].sort(([a, b], [c, d]) => a[0] - c[0] || b[0] - d[0]);
  }
  return tiles.map(([[x1, x2], [y1, y2]]) => passAt(scale, [x1, y1, x2, y2], [roundUp(x2 - x1), roundUp(y2 - y1)], { maxSide: overlap }));
}

/** Rows above a score -> [{box, score, points}], in pixels of the network's input. */
export function decode(raw, [width, height], threshold) {
  const logit = Math.log(threshold / (1 - threshold));
  const found = [];
  let row = 0;
  for (const s of STRIDES) {
    const columns = Math.floor(width / s);
    const cells = columns * Math.floor(height / s);
    for (let cell = 0; cell < cells; cell++, row++) {
      const at = row * 15;
      if (!(raw[at] >= logit)) continue;
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

/** Weighted non-maximum suppression: one row per face, best score first; boxes and points are score-weighted means. */
export function weightedNms(rows, overlap) {
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

/** Drop boxes inside a larger one with a higher score. */
function dropContained(found) {
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

/** Whether a box crosses an inner edge of the window: the neighboring tile shows the entire face. */
function crossesWindow([x1, y1, x2, y2], box, width, height) {
  return (box[0] < x1 && x1 > 0) || (box[1] < y1 && y1 > 0) || (box[2] > x2 && x2 < width) || (box[3] > y2 && y2 < height);
}

/**
 * Photo -> faces, largest first, in photo pixels.
 * run: (Float32Array, [1, 3, h, w]) -> raw rows. about: the detector's part of model.json.
 */
export async function detect(photo, about, run) {
  const scaled = new Map();
  const detectPass = async (spec, threshold) => {
    if (!scaled.has(spec.scale)) scaled.set(spec.scale, resized(photo, spec.scale));
    const picture = scaled.get(spec.scale);
    const [width, height] = spec.canvas;
    const [left, top] = spec.corner;
    const input = new Float32Array(3 * width * height);
    fill(input, 0, picture, spec.window, about.view, width, height, left, top);
    const raw = await run(input, [1, 3, height, width]);
    const [dx, dy] = [spec.window[0] - left, spec.window[1] - top];
    const [hx, hy] = [photo.width / picture.width, photo.height / picture.height];
    const rows = [];
    for (const r of decode(raw, spec.canvas, threshold)) {
      const box = r.box.map((v, k) => v + (k % 2 ? dy : dx));
      if (side(box) < spec.minSide || side(box) > spec.maxSide || crossesWindow(spec.window, box, picture.width, picture.height)) continue;
      const toPhoto = ([x, y]) => [(x + 0.5) * hx - 0.5, (y + 0.5) * hy - 0.5];
      rows.push({ box: [...toPhoto(box.slice(0, 2)), ...toPhoto(box.slice(2))], score: r.score, points: r.points.map(([x, y]) => toPhoto([x + dx, y + dy])) });
    }
    return rows;
  };
  const [base, thumbnail] = plan(photo.width, photo.height, about);
  const candidates = await detectPass(base, about.candidate);
  const rows = candidates.filter((r) => r.score >= about.threshold);
  const passes = tilePasses(photo.width, photo.height, candidates.map((r) => r.box), about);
  if (!rows.length || candidates.some((r) => r.score >= LARGE_SCORE && side(r.box) * base.scale > LARGE_SIDE * about.base)) passes.unshift(thumbnail);
  for (const spec of passes) rows.push(...(await detectPass(spec, about.threshold)));
  return dropContained(weightedNms(rows, about.overlap).sort((a, b) => area(b.box) - area(a.box)));
}
