// The whole pipeline in this browser: photo -> detect -> align -> one forward for its faces -> read. mien/analyze.py, in JavaScript.
import { detect } from "./detect.js";
import { align } from "./geometry.js";
import { fill } from "./pixels.js";
import { readFace } from "./read.js";

const BATCH = 16;

/** A file's bytes, checked against the sha256 that model.json promises (where the page may: over https, or on this machine). */
async function bytes(url, sha256) {
  const reply = await fetch(url);
  if (!reply.ok) throw new Error(`the file ${url} is not next to the page (${reply.status}); write the folder again with: mien web`);
  const data = await reply.arrayBuffer();
  if (globalThis.crypto?.subtle) {
    const found = Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", data)), (b) => b.toString(16).padStart(2, "0")).join("");
    if (found !== sha256) throw new Error(`the file ${url} was truncated or altered; write the folder again with: mien web`);
  }
  return new Uint8Array(data);
}

/** ort: onnxruntime-web. about: model.json. base: the address of its folder. -> {analyze(photo, {identity})}. */
export async function open(ort, about, base) {
  const start = async (part) =>
    ort.InferenceSession.create(await bytes(new URL(part.file, base), part.sha256), { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
  const [finder, network] = [await start(about.detector), await start(about.network)];
  const run = async (session, data, dims, names) => session.run({ images: new ort.Tensor("float32", data, dims) }, names);

  /** photo: RGB. identity: answer it too; it is biometric data. -> the record of docs/schema.md, with masks. */
  async function analyze(photo, { identity = false } = {}) {
    const began = performance.now();
    const found = await detect(photo, about.detector, async (data, dims) => (await run(finder, data, dims, ["faces"])).faces.data);
    const detected = performance.now();
    const { view } = about.network;
    const tasks = about.network.tasks.filter((t) => identity || t.kind !== "identity");
    const aligned = found.map((face) => align(photo, face.points, view));
    const cropped = performance.now();
    const faces = [];
    const [width, height] = view.size;
    for (let first = 0; first < found.length; first += BATCH) {
      const part = aligned.slice(first, first + BATCH);
      const input = new Float32Array(part.length * 3 * width * height);
      part.forEach(({ crop }, i) => fill(input, i * 3 * width * height, crop, [0, 0, width, height], view, width, height));
      const raw = await run(network, input, [part.length, 3, height, width], tasks.map((t) => t.name));
      part.forEach((one, i) => {
        const own = Object.fromEntries(tasks.map(({ name }) => {
          const dims = raw[name].dims.slice(1);
          const size = dims.reduce((a, b) => a * b, 1);
          return [name, { data: raw[name].data.subarray(i * size, (i + 1) * size), dims }];
        }));
        faces.push(readFace(found[first + i], own, one, tasks, about.network.order));
      });
    }
    const spans = { detect: detected - began, align: cropped - detected, read: performance.now() - cropped };
    const timing_ms = Object.fromEntries(Object.entries(spans).map(([k, v]) => [k, Number(v.toFixed(2))]));
    const model = { name: about.network.name, sha256: about.network.sha256 };
    return { schema: about.schema, path: null, width: photo.width, height: photo.height, model, timing_ms, faces };
  }
  return { analyze };
}
