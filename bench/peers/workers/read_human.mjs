// human (@vladmandic/human) on the processor: TensorFlow.js' WASM. Arguments: the environment's folder, threads.

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { serve, versionsOf } from "./serve.mjs";

const home = path.resolve(process.argv[2]), threads = Number(process.argv[3] ?? 2);
const require = createRequire(path.join(home, "package.json"));
const models = path.join(home, "node_modules/@vladmandic/human/models");
// Node's fetch does not read files, and the library fetches its models
const fetched = globalThis.fetch;
globalThis.fetch = async (url, ...rest) => {
  if (!String(url).startsWith("file://")) return fetched(url, ...rest);
  const type = String(url).endsWith(".json") ? "application/json" : "application/octet-stream";
  return new Response(fs.readFileSync(new URL(url)), { headers: { "content-type": type } });
};
const wasm = require("@tensorflow/tfjs-backend-wasm");
wasm.setThreadsCount(threads);
const { Human } = require(path.join(home, "node_modules/@vladmandic/human/dist/human.node-wasm.js"));

const parts = ["mesh", "attention", "iris", "emotion", "description", "antispoof", "liveness"];
const off = { enabled: false };
const wanted = {
  detect: [], points: ["mesh", "iris"], embedding: ["mesh", "iris", "description"], age_gender: ["mesh", "iris", "description"],
  expression: ["mesh", "iris", "emotion"], all: ["mesh", "iris", "emotion", "description", "antispoof", "liveness"],
};
const configOf = (job) => ({
  backend: "wasm", wasmPath: path.join(home, "node_modules/@tensorflow/tfjs-backend-wasm/dist/"), modelBasePath: `file://${models}/`,
  debug: false, async: false, cacheSensitivity: 0, // a picture is no frame of a film: nothing of the one before
  filter: { enabled: false }, gesture: off, body: off, hand: off, object: off, segmentation: off,
  face: {
    enabled: true, detector: { maxDetected: 20, rotation: true, skipFrames: 0, skipTime: 0, return: false },
    ...Object.fromEntries(parts.map((p) => [p, { enabled: wanted[job].includes(p), skipFrames: 0, skipTime: 0 }])),
  },
});
const human = new Human(configOf("all"));
await human.load();
await human.warmup({ warmup: "none" });

async function call(input, job) {
  const result = await human.detect(input, configOf(job));
  if (result.error) throw new Error(result.error);
  return result.face;
}

// Coordinates are cut to whole pixels by the library: on average that takes away the half pixel between edges and centres.
const tell = (raw, job) => raw.map((f) => {
  const [x, y, w, h] = f.box;
  const face = { box: [x, y, x + w, y + h], score: f.score };
  if (job !== "detect" && f.mesh?.length >= 468) face.mesh = f.mesh.map((p) => [p[0], p[1]]);
  if (f.embedding?.length) face.embedding = Array.from(f.embedding);
  if (f.embedding?.length) face.age = f.age ?? 0; // one network tells both, and the library leaves an age of 0 out
  if (f.gender === "male" || f.gender === "female") face.male = f.gender === "male" ? (1 + f.genderScore) / 2 : (1 - f.genderScore) / 2;
  if (f.emotion?.length) face.expression = Object.fromEntries(f.emotion.map((e) => [e.emotion, e.score]));
  return face;
});

const files = ["blazeface", "facemesh", "iris", "emotion", "faceres", "antispoof", "liveness"];
await serve({
  prepare: ({ data, shape }) => human.tf.tensor4d(data, [1, ...shape], "int32"),
  call, tell, done: (t) => human.tf.dispose(t),
  versions: versionsOf(home, ["@vladmandic/human", "@tensorflow/tfjs-backend-wasm"]),
  weights: files.map((n) => path.join(models, `${n}.bin`)),
});
