// The picture and what was read, on a canvas. Coordinates come in photo pixels, where pixel centers are whole numbers.

const LINES = {
  // iBUG's 68: first, last, closed
  ibug68: [[0, 16], [17, 21], [22, 26], [27, 30], [31, 35], [36, 41, 1], [42, 47, 1], [48, 59, 1], [60, 67, 1]],
};
const AXES = [["#ff5a4d", [1, 0, 0]], ["#4cd964", [0, -1, 0]], ["#38a3ff", [0, 0, -1]]]; // to the picture's right, up, ahead

/** Degrees -> rotation, as mien.tasks.pose.pose_matrix. */
function rotation({ yaw, pitch, roll }) {
  const [[cy, sy], [cp, sp], [cr, sr]] = [yaw, pitch, roll].map((d) => [Math.cos((d * Math.PI) / 180), Math.sin((d * Math.PI) / 180)]);
  const times = (a, b) => a.map((row) => [0, 1, 2].map((k) => row.reduce((s, v, i) => s + v * b[i][k], 0)));
  const aboutY = [[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]];
  const aboutX = [[1, 0, 0], [0, cp, sp], [0, -sp, cp]];
  return times(times(aboutY, aboutX), [[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]);
}

/** Three axes of a head at (x, y): red to its right in the picture, green up, blue in its viewing direction. */
export function drawPose(ctx, pose, x, y, length, width) {
  const r = rotation(pose);
  const ends = AXES.map(([color, v]) => ({ color, to: r.map((row) => row.reduce((s, w, i) => s + w * v[i], 0)) }));
  ends.sort((a, b) => b.to[2] - a.to[2]); // the farthest first
  for (const { color, to } of ends) {
    const [ex, ey] = [x + to[0] * length, y + to[1] * length];
    for (const [stroke, w] of [["rgb(0 0 0 / .45)", width * 2], [color, width]]) {
      ctx.strokeStyle = stroke;
      ctx.lineWidth = w;
      ctx.lineCap = "round";
      ctx.beginPath();
      ctx.moveTo(x, y);
      ctx.lineTo(ex, ey);
      ctx.stroke();
    }
    ctx.fillStyle = color;
    ctx.beginPath();
    ctx.arc(ex, ey, width * 1.4, 0, 7);
    ctx.fill();
  }
}

// Classes of masks that weights define themselves; the first is the background.
const TINTS = ["#e6503c", "#3c8ce6", "#f0be32", "#46b46e", "#aa5ac8", "#5ac8d2"];
const OWN = Array.from({ length: 255 }, (_, i) => ({ color: TINTS[(i + TINTS.length - 1) % TINTS.length], head: i > 0 }));

const painted = new WeakMap(); // mask -> canvas

/** The parts of the head in their colors; the rest is transparent, so that the crop's edges do not show. */
function paint(mask, classes) {
  if (painted.has(mask)) return painted.get(mask);
  const [width, height] = mask.size;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const image = new ImageData(width, height);
  const words = new Uint32Array(image.data.buffer);
  const colors = classes.map(({ color, head }) => {
    const v = parseInt(color.slice(1), 16);
    return !head ? 0 : (0xff000000 | ((v & 255) << 16) | (v & 0xff00) | (v >> 16)) >>> 0;
  });
  let at = 0;
  for (let i = 0; i < mask.runs.length; i += 2) {
    words.fill(colors[mask.runs[i]] ?? 0, at, at + mask.runs[i + 1]);
    at += mask.runs[i + 1];
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  painted.set(mask, canvas);
  return canvas;
}

function drawMask(ctx, answer, sets, scale, [ox, oy], opacity) {
  const { mask } = answer;
  const classes = sets[answer.set] ?? OWN;
  if (!mask) return;
  const [[a, b, c], [d, e, f]] = mask.from_photo;
  const det = a * e - b * d;
  const m = [[e / det, -b / det, (b * f - e * c) / det], [-d / det, a / det, (d * c - a * f) / det]];
  const shift = m.map((row) => scale * (row[2] + 0.5 - 0.5 * (row[0] + row[1])));
  ctx.save();
  ctx.globalAlpha = opacity;
  ctx.setTransform(scale * m[0][0], scale * m[1][0], scale * m[0][1], scale * m[1][1], shift[0] - ox * scale, shift[1] - oy * scale);
  ctx.drawImage(paint(mask, classes), 0, 0);
  ctx.restore();
}

function drawPoints(ctx, answer, at, width) {
  const p = answer.points.map(at);
  ctx.lineWidth = width;
  ctx.lineJoin = "round";
  for (const [first, last, closed] of LINES[answer.set] ?? []) {
    ctx.beginPath();
    for (let i = first; i <= last; i++) ctx.lineTo(...p[i]);
    if (closed) ctx.closePath();
    ctx.strokeStyle = "rgb(255 255 255 / .65)";
    ctx.stroke();
  }
  for (const [x, y] of p) {
    ctx.beginPath();
    ctx.arc(x, y, width * 1.35, 0, 7);
    ctx.fillStyle = "#fff";
    ctx.fill();
    ctx.lineWidth = width * 0.5;
    ctx.strokeStyle = "rgb(0 0 0 / .55)";
    ctx.stroke();
  }
}

/**
 * Draws a picture with its faces. canvas: has its final size. show: {box, points, pose: bool, opacity: 0..1}.
 * chosen: the face whose box is bright, or -1. part: {x, y, width} of the photo that fills the canvas; all of it if not given.
 */
export function draw(canvas, bitmap, record, sets, show, chosen, part) {
  const ctx = canvas.getContext("2d");
  const { x: ox, y: oy, width } = part ?? { x: 0, y: 0, width: record?.width ?? bitmap.width };
  const scale = canvas.width / width;
  const line = Math.max(1, window.devicePixelRatio || 1);
  ctx.clearRect(0, 0, canvas.width, canvas.height);
  ctx.imageSmoothingQuality = "high";
  const size = [(record?.width ?? bitmap.width) * scale, (record?.height ?? bitmap.height) * scale];
  ctx.drawImage(bitmap, -ox * scale, -oy * scale, ...size);
  const at = ([x, y]) => [(x + 0.5 - ox) * scale, (y + 0.5 - oy) * scale];
  for (const [index, face] of (record?.faces ?? []).entries()) {
    const [[x1, y1], [x2, y2]] = [at(face.box.slice(0, 2)), at(face.box.slice(2))];
    const side = x2 - x1;
    const fine = line * Math.min(1.6, Math.max(0.6, side / line / 130));
    const answers = Object.values(face);
    if (show.opacity > 0) for (const answer of answers) if (answer.mask) drawMask(ctx, answer, sets, scale, [ox, oy], show.opacity);
    if (show.points) {
      const marks = answers.filter((a) => a.points);
      for (const marked of marks.length ? marks : [{ points: face.points5 }]) drawPoints(ctx, marked, at, fine);
    }
    if (show.box) drawBox(ctx, [x1, y1, x2, y2], index === chosen, line);
    const pose = face.pose ?? face.euler;
    if (show.pose && pose) drawPose(ctx, pose, ...at(face.points5[2]), side * 0.45, fine * 2);
  }
}

/** Four corners, which do not cover the face. */
function drawBox(ctx, [x1, y1, x2, y2], chosen, line) {
  const [dx, dy] = [(x2 - x1) / 4, (y2 - y1) / 4];
  const fine = line * Math.min(1, Math.max(0.4, (x2 - x1) / line / 60));
  ctx.beginPath();
  for (const [x, y, sx, sy] of [[x1, y1, 1, 1], [x2, y1, -1, 1], [x2, y2, -1, -1], [x1, y2, 1, -1]]) {
    ctx.moveTo(x + sx * dx, y);
    ctx.lineTo(x, y);
    ctx.lineTo(x, y + sy * dy);
  }
  ctx.lineCap = "round";
  ctx.lineJoin = "round";
  for (const [color, width] of [["rgb(0 0 0 / .5)", chosen ? 6 : 4], [chosen ? "#3ff0bd" : "#fff", chosen ? 3.5 : 2]]) {
    ctx.strokeStyle = color;
    ctx.lineWidth = width * fine;
    ctx.stroke();
  }
}

/** One face, square, with a margin. */
export function drawThumbnail(canvas, bitmap, record, face) {
  const [x1, y1, x2, y2] = face.box;
  const side = Math.max(x2 - x1, y2 - y1) * 1.35;
  const scale = bitmap.width / record.width;
  const [cx, cy] = [(x1 + x2) / 2 + 0.5, (y1 + y2) / 2 + 0.5 - side * 0.04];
  const ctx = canvas.getContext("2d");
  ctx.clearRect(0, 0, canvas.width, canvas.height);
  ctx.imageSmoothingQuality = "high";
  ctx.drawImage(bitmap, (cx - side / 2) * scale, (cy - side / 2) * scale, side * scale, side * scale, 0, 0, canvas.width, canvas.height);
}
