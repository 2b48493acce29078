// Pictures as plain bytes, moved exactly as OpenCV moves them (checked against it in tests/test_page.py), since a canvas
// resamples by rules of its own. A picture is {data, width, height}, RGB, three bytes a pixel, row by row.
// Uint8ClampedArray rounds halves to the even neighbor, which is what OpenCV's rounding does.

/** Round as Python does: halves to the even neighbor. */
export function even(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

/** A canvas's RGBA -> RGB. The canvas has no transparency: it was white before the picture came. */
export function fromRgba({ data, width, height }) {
  const out = new Uint8ClampedArray(width * height * 3);
  for (let i = 0, o = 0; i < data.length; i += 4) {
    out[o++] = data[i];
    out[o++] = data[i + 1];
    out[o++] = data[i + 2];
  }
  return { data: out, width, height };
}

/** For each of `to` cells the source cells it covers and their shares: [[first, shares], ...]. */
function shares(from, to) {
  const step = from / to;
  return Array.from({ length: to }, (_, k) => {
    const a = k * step;
    const b = Math.min((k + 1) * step, from);
    const first = Math.min(from - 1, Math.floor(a + 1e-9));
    const last = Math.max(first + 1, Math.min(from, Math.ceil(b - 1e-9)));
    const w = Array.from({ length: last - first }, (_, j) => Math.max(0, Math.min(first + j + 1, b) - Math.max(first + j, a)));
    const sum = w.reduce((x, y) => x + y, 0);
    return [first, w.map((v) => v / sum)];
  });
}

/** Smaller, by the mean over the area that each new pixel covers (cv2.resize, INTER_AREA). */
export function shrink(photo, width, height) {
  const across = shares(photo.width, width);
  const down = shares(photo.height, height);
  const half = photo.width === 2 * width && photo.height === 2 * height; // OpenCV rounds this one case up
  const out = new Uint8ClampedArray(width * height * 3);
  const cache = new Map(); // source row -> that row, already narrowed; two at most are needed twice
  const sum = new Float64Array(width * 3);
  down.forEach(([first, weights], y) => {
    sum.fill(0);
    for (const known of cache.keys()) if (known < first) cache.delete(known);
    weights.forEach((weight, j) => {
      const row = cache.get(first + j) ?? narrowed(photo, first + j, across);
      if (j === weights.length - 1) cache.set(first + j, row);
      for (let i = 0; i < sum.length; i++) sum[i] += weight * row[i];
    });
    const at = y * width * 3;
    for (let i = 0; i < sum.length; i++) out[at + i] = half ? Math.floor(sum[i] + 0.5) : Math.fround(sum[i]);
  });
  return { data: out, width, height };
}

function narrowed(photo, y, across) {
  const { data, width } = photo;
  const row = new Float64Array(across.length * 3);
  across.forEach(([first, weights], x) => {
    let r = 0, g = 0, b = 0;
    let i = (y * width + first) * 3;
    for (const w of weights) {
      r += w * data[i++];
      g += w * data[i++];
      b += w * data[i++];
    }
    row.set([r, g, b], x * 3);
  });
  return row;
}

/** For each of `to` cells: the two source cells it lies between, and how far from the first. */
function between(from, to) {
  return Array.from({ length: to }, (_, k) => {
    const at = ((k + 0.5) * from) / to - 0.5;
    const i = Math.floor(at);
    if (i < 0) return [0, 0, 0];
    if (i >= from - 1) return [from - 1, from - 1, 0];
    return [i, i + 1, at - i];
  });
}

/** Another size, bilinear, in OpenCV's integers (cv2.resize, INTER_LINEAR, eleven bits a weight). */
export function bilinear(photo, width, height) {
  const { data } = photo;
  const across = between(photo.width, width).map(([i, j, f]) => [3 * i, 3 * j, even(f * 2048)]);
  const out = new Uint8ClampedArray(width * height * 3);
  const rows = new Map();
  const widened = (y) => {
    if (!rows.has(y)) {
      const row = new Int32Array(width * 3);
      const base = y * photo.width * 3;
      across.forEach(([i, j, f], x) => {
        for (let c = 0; c < 3; c++) row[3 * x + c] = (data[base + i + c] * (2048 - f) + data[base + j + c] * f) >> 4;
      });
      rows.set(y, row);
    }
    return rows.get(y);
  };
  between(photo.height, height).forEach(([i, j, f], y) => {
    for (const known of rows.keys()) if (known < i) rows.delete(known);
    const [a, b, w] = [widened(i), widened(j), even(f * 2048)];
    const at = y * width * 3;
    for (let x = 0; x < a.length; x++) out[at + x] = ((((2048 - w) * a[x]) >> 16) + ((w * b[x]) >> 16) + 2) >> 2;
  });
  return { data: out, width, height };
}

/** The photo at another scale: halved by area while it is twice as large or more, then bilinear (mien.inference.detector.resized). */
export function resized(photo, scale) {
  const width = Math.max(1, even(photo.width * scale));
  const height = Math.max(1, even(photo.height * scale));
  while (photo.width >= 2 * width && photo.height >= 2 * height) {
    photo = shrink(photo, Math.max(1, photo.width >> 1), Math.max(1, photo.height >> 1));
  }
  return width === photo.width && height === photo.height ? photo : bilinear(photo, width, height);
}

/** Maps of floats, one after another, enlarged bilinearly: (n, h, w) -> (n, height, width). */
export function enlargeMaps(maps, n, h, w, height, width) {
  const out = new Float32Array(n * height * width);
  const across = between(w, width);
  const down = between(h, height);
  for (let k = 0; k < n; k++) {
    for (let y = 0; y < height; y++) {
      const [i, j, f] = down[y];
      const [top, low] = [(k * h + i) * w, (k * h + j) * w];
      for (let x = 0; x < width; x++) {
        const [l, r, g] = across[x];
        const a = maps[top + l] * (1 - g) + maps[top + r] * g;
        const b = maps[low + l] * (1 - g) + maps[low + r] * g;
        out[(k * height + y) * width + x] = a * (1 - f) + b * f;
      }
    }
  }
  return out;
}

/** Pixels through an affine (cv2.warpAffine, INTER_LINEAR, black outside). affine: photo -> out, [[a, b, c], [d, e, f]]. */
export function warpAffine(photo, inverse, width, height) {
  const { data } = photo;
  const [[a, b, c], [d, e, f]] = inverse;
  const out = new Uint8ClampedArray(width * height * 3);
  const [W, H] = [photo.width, photo.height];
  for (let y = 0, o = 0; y < height; y++) {
    for (let x = 0; x < width; x++, o += 3) {
      const sx = a * x + b * y + c;
      const sy = d * x + e * y + f;
      const x0 = Math.floor(sx);
      const y0 = Math.floor(sy);
      if (x0 < -1 || y0 < -1 || x0 >= W || y0 >= H) continue;
      const [u, v] = [sx - x0, sy - y0];
      let r = 0, g = 0, bl = 0;
      for (let k = 0; k < 4; k++) {
        const px = x0 + (k & 1);
        const py = y0 + (k >> 1);
        if (px < 0 || py < 0 || px >= W || py >= H) continue;
        const w = (k & 1 ? u : 1 - u) * (k >> 1 ? v : 1 - v);
        const i = (py * W + px) * 3;
        r += w * data[i];
        g += w * data[i + 1];
        bl += w * data[i + 2];
      }
      out[o] = Math.fround(r);
      out[o + 1] = Math.fround(g);
      out[o + 2] = Math.fround(bl);
    }
  }
  return { data: out, width, height };
}

/**
 * Bytes into a network's input, (3, height, width) from `at` on, normalized: (v / 255 - mean) / std.
 * The picture stands at (left, top); around it is black. mean, std: three numbers each.
 */
export function fill(out, at, picture, window, { mean, std }, width, height, left = 0, top = 0) {
  const [x1, y1, x2, y2] = window;
  for (let c = 0; c < 3; c++) {
    const scale = 1 / (255 * std[c]);
    const offset = mean[c] / std[c];
    const plane = at + c * width * height;
    out.fill(-offset, plane, plane + width * height);
    for (let y = y1; y < y2; y++) {
      let i = (y * picture.width + x1) * 3 + c;
      let o = plane + (y - y1 + top) * width + left;
      for (let x = x1; x < x2; x++, i += 3) out[o++] = picture.data[i] * scale - offset;
    }
  }
}
