// The engine in a worker, so that the page stays awake while a picture is read.
import * as ort from "../../ort/ort.wasm.bundle.min.mjs";
import { open } from "./engine.js";
import { fromRgba } from "./pixels.js";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL("../../ort/ort-wasm-simd-threaded.wasm", import.meta.url).href };
let engine;

self.onmessage = async ({ data: { id, about, image, identity } }) => {
  try {
    engine ??= open(ort, about, new URL("../../weights/", import.meta.url));
    const reader = await engine;
    const record = image ? await reader.analyze(fromRgba(image), { identity }) : null;
    self.postMessage({ id, record });
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};
