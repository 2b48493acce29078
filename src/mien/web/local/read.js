// Raw answers -> the record's answers: `read` and `to_dict` of mien/tasks, in JavaScript.
import { compose, invert, move, poseFrom68 } from "./geometry.js";
import { enlargeMaps } from "./pixels.js";

const round = (v, digits) => Number(v.toFixed(digits));
const sigmoid = (v) => 1 / (1 + Math.exp(-v));

export function softmax(values) {
  const most = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const e = Array.from(values, (v) => Math.exp(v - most));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((v) => v / sum);
}

/** Heat maps (n, h, w) or fractions (n, 2) -> n places as fractions of the crop. */
function places(raw, dims) {
  if (dims.length === 2) return Array.from({ length: dims[0] }, (_, k) => [raw[2 * k], raw[2 * k + 1]]);
  const [n, h, w] = dims;
  return Array.from({ length: n }, (_, k) => {
    const p = softmax(raw.subarray(k * h * w, (k + 1) * h * w));
    let [x, y] = [0, 0];
    p.forEach((v, i) => {
      x += (v * ((i % w) + 0.5)) / w;
      y += (v * (Math.floor(i / w) + 0.5)) / h;
    });
    return [x, y];
  });
}

function points(raw, dims, { fromPhoto, crop }) {
  const home = invert(fromPhoto);
  return places(raw, dims).map(([x, y]) => move(home, [x * crop.width - 0.5, y * crop.height - 0.5]).map(Math.fround));
}

/** Values -> [value, how often, value, how often ...]. */
export function runs(values) {
  const out = [];
  for (const v of values) {
    if (out.length && out[out.length - 2] === v) out[out.length - 1]++;
    else out.push(v, 1);
  }
  return out;
}

/** Whether each pixel of a crop lies outside the photo; null where none does. */
export function outsidePhoto(toCrop, photo, width, height) {
  const home = invert(toCrop);
  const beyond = (x, y) => {
    const [px, py] = move(home, [x, y]);
    return px < -0.5 || py < -0.5 || px > photo.width - 0.5 || py > photo.height - 0.5;
  };
  const corners = [[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]];
  if (!corners.some(([x, y]) => beyond(x, y))) return null;
  return Uint8Array.from({ length: width * height }, (_, i) => beyond(i % width, Math.floor(i / width)));
}

function parsing(raw, [n, h, w], { fromPhoto, crop, photo }, task) {
  const k = 2 * h >= crop.height ? 2 : 1; // as fine maps as these tell edges to half a pixel of the crop
  const [width, height] = [k * crop.width, k * crop.height];
  const maps = enlargeMaps(raw, n, h, w, height, width);
  const mask = new Uint8Array(width * height);
  const counts = new Array(n).fill(0);
  const toMask = compose([[k, 0, (k - 1) / 2], [0, k, (k - 1) / 2]], fromPhoto);
  const outside = outsidePhoto(toMask, photo, width, height); // where there is nothing to see
  for (let i = 0; i < mask.length; i++) {
    if (outside && outside[i]) {
      counts[0]++;
      continue;
    }
    let best = 0;
    for (let c = 1; c < n; c++) if (maps[c * mask.length + i] > maps[best * mask.length + i]) best = c;
    mask[i] = best;
    counts[best]++;
  }
  const seen = task.names.map((name, c) => [name, round(counts[c] / mask.length, 4)]).filter((_, c) => counts[c]);
  return { set: task.labels, classes: Object.fromEntries(seen), mask: { size: [width, height], from_photo: toMask, runs: runs(mask) } };
}

function age(raw, temperature) {
  const years = softmax(raw).reduce((s, p, k) => s + p * k, 0);
  const spread = softmax(Array.from(raw, (v) => v / temperature));
  const edge = (share) => {
    let sum = 0;
    for (let k = 0; k < spread.length; k++) {
      if (sum + spread[k] >= share) return k - 0.5 + (share - sum) / spread[k];
      sum += spread[k];
    }
    return spread.length - 0.5;
  };
  let [low, high] = [edge(0.1), edge(0.9)];
  if (temperature !== 1) [low, high] = [Math.min(low, years), Math.max(high, years)];
  const within = (v) => round(Math.min(100, Math.max(0, v)), 1);
  const over = (bound) => round(Math.min(1, spread.slice(bound).reduce((s, p) => s + p, 0)), 4);
  const bounds = Object.fromEntries([13, 16, 18, 21, 25].map((bound) => [bound, over(bound)]));
  return { years: round(years, 1), low: within(low), high: within(high), coverage: 0.8, at_least: bounds };
}

function choice(raw, task) {
  const p = softmax(Array.from(raw, (v) => v / task.temperature));
  const label = task.display.reduce((a, b) => (p[task.names.indexOf(b)] > p[task.names.indexOf(a)] ? b : a));
  return { set: task.labels, label, probabilities: Object.fromEntries(task.display.map((n) => [n, round(p[task.names.indexOf(n)], 4)])) };
}

function number(raw, task) {
  const clipped = (v) => Math.min(task.maximum, Math.max(task.minimum, v));
  const half = task.interval * task.scale * Math.exp(Math.min(5, Math.max(-5, raw[1])));
  const middle = clipped(task.center + task.scale * raw[0]);
  const [estimate, low, high] = [middle, clipped(middle - half), clipped(middle + half)].map((v) => round(v, 4));
  return { estimate, low, high, unit: task.unit, coverage: task.coverage };
}

/** A vector of length 1. */
export function unit(raw) {
  const length = Math.max(Math.hypot(...raw), 1e-12);
  return Array.from(raw, (v) => v / length);
}

/**
 * One face's raw answers -> its record.
 * found: from `detect`. raw: task name -> {data, dims}, of this face alone. tasks, order: of model.json.
 */
export function readFace(found, raw, aligned, tasks, order) {
  const out = { box: found.box.map((v) => round(v, 2)), score: round(found.score, 4), points5: found.points };
  const plain = (p) => p.map((xy) => xy.map((v) => round(v, 2)));
  const derived = {};
  for (const task of tasks) {
    const { data, dims } = raw[task.name];
    if (task.kind === "points") {
      const p = points(data, dims, aligned);
      if (task.name === "points5") out.points5_network = plain(p);
      else out[task.name] = { set: task.labels, points: plain(p), ...(task.names ? { names: task.names } : {}) };
      if (task.name === "landmarks") {
        const [yaw, pitch, roll] = poseFrom68(p);
        derived.pose = { yaw: round(yaw, 1), pitch: round(pitch, 1), roll: round(roll, 1) };
      }
    } else if (task.kind === "map") out[task.name] = parsing(data, dims, aligned, task);
    else if (task.kind === "age") out[task.name] = age(data, task.temperature);
    else if (task.kind === "choice") out[task.name] = choice(data, task);
    else if (task.kind === "number") out[task.name] = number(data, task);
    else if (task.kind === "attributes") {
      const p = task.names.map((name, k) => [name, sigmoid(data[k] / task.temperature)]);
      out[task.name] = Object.fromEntries(p.map(([name, v]) => [name, round(v, 4)]));
      const male = Object.fromEntries(p).Male;
      if (task.name === "attributes") derived.gender = { label: male >= 0.5 ? "male" : "female", probability: round(Math.max(male, 1 - male), 4) };
    } else if (task.kind === "identity") out[task.name] = { embedding: unit(data).map((v) => round(v, 6)) };
  }
  out.points5 = plain(out.points5);
  const all = { ...out, ...derived };
  const known = order.filter((name) => name in all);
  return Object.fromEntries(["box", "score", "points5", ...("points5_network" in all ? ["points5_network"] : []), ...known].map((name) => [name, all[name]]));
}
