// The five-point fit, affines, boxes, and the pose of a head: mien/geometry.py, in JavaScript.
// An affine is [[a, b, c], [d, e, f]]; pixel centers are whole numbers.
import { shrink, warpAffine } from "./pixels.js";

/** Least-squares rotation + scale + shift that brings points `src` to `dst`. */
export function fitSimilarity(src, dst) {
  const n = src.length;
  const mean = (p, k) => p.reduce((s, v) => s + v[k], 0) / n;
  const [mx, my, nx, ny] = [mean(src, 0), mean(src, 1), mean(dst, 0), mean(dst, 1)];
  let norm = 0, re = 0, im = 0;
  for (let i = 0; i < n; i++) {
    const [x, y, u, v] = [src[i][0] - mx, src[i][1] - my, dst[i][0] - nx, dst[i][1] - ny];
    norm += x * x + y * y;
    re += u * x + v * y;
    im += v * x - u * y;
  }
  if (!(norm >= 1e-12) || !Number.isFinite(norm)) throw new Error("cannot fit a face to points that coincide");
  const [a, b] = [re / norm, im / norm];
  return [[a, -b, nx - a * mx + b * my], [b, a, ny - b * mx - a * my]];
}

export function compose([[a, b, c], [d, e, f]], [[u, v, w], [x, y, z]]) {
  return [[a * u + b * x, a * v + b * y, a * w + b * z + c], [d * u + e * x, d * v + e * y, d * w + e * z + f]];
}

export function invert([[a, b, c], [d, e, f]]) {
  const det = a * e - b * d;
  return [[e / det, -b / det, (b * f - e * c) / det], [-d / det, a / det, (d * c - a * f) / det]];
}

export function move([[a, b, c], [d, e, f]], [x, y]) {
  return [a * x + b * y + c, d * x + e * y + f];
}

/** A face brought to a view by its five points: {crop, fromPhoto}. */
export function align(photo, points, view) {
  const [width, height] = view.size;
  const places = view.points.map(([x, y]) => [x * width - 0.5, y * height - 0.5]);
  const fromPhoto = fitSimilarity(points, places);
  let affine = fromPhoto;
  let source = photo;
  // halved first where it shrinks by more than two, so that fine detail does not alias
  while (Math.hypot(affine[0][0], affine[1][0]) < 0.5 && Math.min(source.width, source.height) >= 2) {
    const less = shrink(source, Math.floor(source.width / 2), Math.floor(source.height / 2));
    const [sx, sy] = [source.width / less.width, source.height / less.height];
    affine = compose(affine, [[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2]]);
    source = less;
  }
  return { crop: warpAffine(source, invert(affine), width, height), fromPhoto, photo: { width: photo.width, height: photo.height } };
}

/** Intersection over union of two boxes, x1, y1, x2, y2. */
export function iou(a, b) {
  const inter = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter;
  return inter / Math.max(union, 1e-9);
}

// A generic 3-D face, and which of the 68 points its rows are; the numbers of mien/geometry.py.
const INDEX = [8, 30, 33, 36, 39, 42, 45, 48, 54, 27];
const FACE = [
  [0, 68, 11], [0, 0, -15], [0, 12, -4], [-45, -35, 21], [-17, -33, 16], [17, -33, 16], [45, -35, 21], [-27, 34, 8], [27, 34, 8],
  [0, -35, 5],
];
const FOCUS = 4;

/** Rotation vector -> rotation matrix. */
function rodrigues([x, y, z]) {
  const t = Math.hypot(x, y, z);
  if (t < 1e-12) return [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  const [u, v, w] = [x / t, y / t, z / t];
  const [c, s] = [Math.cos(t), Math.sin(t)];
  const k = 1 - c;
  return [
    [c + u * u * k, u * v * k - w * s, u * w * k + v * s],
    [u * v * k + w * s, c + v * v * k, v * w * k - u * s],
    [u * w * k - v * s, v * w * k + u * s, c + w * w * k],
  ];
}

/** How far the face, so turned and moved, appears from where it should: 20 numbers. */
function misses(p, seen) {
  const r = rodrigues(p);
  return FACE.flatMap(([x, y, z], i) => {
    const at = r.map((row, k) => row[0] * x + row[1] * y + row[2] * z + p[3 + k]);
    return [(FOCUS * at[0]) / at[2] - seen[i][0], (FOCUS * at[1]) / at[2] - seen[i][1]];
  });
}

/** Solve a small square system by elimination with pivots. */
function solve(matrix, right) {
  const m = matrix.map((row, i) => [...row, right[i]]);
  const n = m.length;
  for (let i = 0; i < n; i++) {
    let best = i;
    for (let j = i + 1; j < n; j++) if (Math.abs(m[j][i]) > Math.abs(m[best][i])) best = j;
    [m[i], m[best]] = [m[best], m[i]];
    for (let j = 0; j < n; j++) {
      if (j === i) continue;
      const f = m[j][i] / m[i][i];
      for (let k = i; k <= n; k++) m[j][k] -= f * m[i][k];
    }
  }
  return m.map((row, i) => row[n] / row[i]);
}

/** 68 points in pixels -> [yaw, pitch, roll] in degrees, by least squares on the generic face (Levenberg, Marquardt). */
export function poseFrom68(points) {
  const p = INDEX.map((i) => points[i]);
  const mean = [0, 1].map((k) => p.reduce((s, v) => s + v[k], 0) / p.length);
  const size = Math.max(1e-3, ...[0, 1].map((k) => Math.max(...p.map((v) => v[k])) - Math.min(...p.map((v) => v[k]))));
  const seen = p.map(([x, y]) => [(x - mean[0]) / size, (y - mean[1]) / size]);
  let now = [0, 0, 0, 0, 0, FOCUS * 103]; // upright, as far away as the focal length implies; 103: the face's height
  const cost = (v) => misses(v, seen).reduce((s, e) => s + e * e, 0);
  let [best, damping] = [cost(now), 1e-3];
  for (let step = 0; step < 100 && damping < 1e12; step++) {
    const e = misses(now, seen);
    const columns = now.map((v, k) => {
      const h = 1e-6 * Math.max(1, Math.abs(v));
      const moved = now.map((w, j) => (j === k ? w + h : w));
      return misses(moved, seen).map((w, i) => (w - e[i]) / h);
    });
    const dot = (a, b) => a.reduce((s, v, i) => s + v * b[i], 0);
    const normal = columns.map((a, i) => columns.map((b, j) => dot(a, b) * (i === j ? 1 + damping : 1)));
    const delta = solve(normal, columns.map((a) => -dot(a, e)));
    const next = now.map((v, k) => v + delta[k]);
    const found = cost(next);
    if (!(found < best)) {
      damping *= 10;
      continue;
    }
    const done = best - found < 1e-14;
    [now, best, damping] = [next, found, damping / 10];
    if (done) break;
  }
  return angles(rodrigues(now));
}

function angles(r) {
  const forward = [-r[0][2], -r[1][2], -r[2][2]]; // where the nose points: the model looks along -z
  const yaw = Math.atan2(forward[0], -forward[2]);
  const pitch = Math.asin(Math.min(1, Math.max(-1, -forward[1])));
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  // the first column of (about y, then about x), undone: what in-plane turn is left
  const upright = [[cy, sy * sp, -sy * cp], [0, cp, sp], [sy, -cy * sp, cy * cp]];
  const left = [0, 1].map((k) => upright.reduce((s, row, i) => s + row[k] * r[i][0], 0));
  return [yaw, pitch, Math.atan2(left[1], left[0])].map((v) => (v * 180) / Math.PI);
}
