// face-api (@vladmandic/face-api) on the processor: TensorFlow.js' WASM. Arguments: the environment's folder.

import { createRequire } from "node:module";
import path from "node:path";
import { serve, versionsOf } from "./serve.mjs";

const home = path.resolve(process.argv[2]), threads = Number(process.argv[3] ?? 2);
const require = createRequire(path.join(home, "package.json"));
const wasm = require("@tensorflow/tfjs-backend-wasm");
const faceapi = require(path.join(home, "node_modules/@vladmandic/face-api/dist/face-api.node-wasm.js"));
const models = path.join(home, "node_modules/@vladmandic/face-api/model");
wasm.setWasmPaths(path.join(home, "node_modules/@tensorflow/tfjs-backend-wasm/dist/"));
wasm.setThreadsCount(threads);
await faceapi.tf.setBackend("wasm");
await faceapi.tf.ready();
const nets = {
  ssd_mobilenetv1_model: faceapi.nets.ssdMobilenetv1, face_landmark_68_model: faceapi.nets.faceLandmark68Net,
  age_gender_model: faceapi.nets.ageGenderNet, face_expression_model: faceapi.nets.faceExpressionNet,
  face_recognition_model: faceapi.nets.faceRecognitionNet,
};
for (const net of Object.values(nets)) await net.loadFromDisk(models);
const options = new faceapi.SsdMobilenetv1Options({ minConfidence: 0.5, maxResults: 100 });

function call(input, job) {
  const found = faceapi.detectAllFaces(input, options);
  if (job === "detect") return found;
  const placed = found.withFaceLandmarks();
  if (job === "points") return placed;
  if (job === "embedding") return placed.withFaceDescriptors();
  if (job === "age_gender") return placed.withAgeAndGender();
  if (job === "expression") return placed.withFaceExpressions();
  return placed.withFaceExpressions().withAgeAndGender().withFaceDescriptors();
}

const tell = (raw) => raw.map((r) => {
  const { box, score } = r.detection ?? r;
  const face = { box: [box.x, box.y, box.x + box.width, box.y + box.height], score };
  if (r.landmarks) face.ibug68 = r.landmarks.positions.map((p) => [p.x, p.y]);
  if (r.descriptor) face.embedding = Array.from(r.descriptor);
  if (r.age !== undefined) Object.assign(face, { age: r.age, male: r.gender === "male" ? r.genderProbability : 1 - r.genderProbability });
  if (r.expressions) face.expression = { ...r.expressions };
  return face;
});

await serve({
  prepare: ({ data, shape }) => faceapi.tf.tensor3d(data, shape, "int32"),
  call, tell, done: (t) => t.dispose(),
  versions: versionsOf(home, ["@vladmandic/face-api", "@tensorflow/tfjs-backend-wasm"]),
  weights: Object.keys(nets).map((n) => path.join(models, `${n}.bin`)),
});
