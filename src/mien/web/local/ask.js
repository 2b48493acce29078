// The functions of ../ask.js, computed in this browser: no picture leaves the machine.

export class Refused extends Error {}
export const useKey = () => {};

let about;
let worker;
let count = 0;
const waiting = new Map();

function send(message, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++count, { resolve, reject });
    worker.postMessage({ id: count, about, ...message }, transfer);
  });
}

export async function offer() {
  const reply = await fetch(new URL("../../weights/model.json", import.meta.url));
  if (!reply.ok) throw new Refused("The file weights/model.json is not next to the page; write the folder again with: mien web");
  about = await reply.json();
  worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data: { id, record, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Refused(error));
    else resolve(record);
  };
  worker.onerror = (event) => {
    for (const { reject } of waiting.values()) reject(new Refused(`The reader did not start: ${event.message || "a file is missing next to the page"}`));
    waiting.clear();
  };
  await send({}); // loads the networks
  const tasks = about.network.tasks.map((t) => t.name);
  const { name, sha256 } = about.network;
  return { tasks, identity: tasks.some((n) => n.startsWith("identity")), gallery: false, maxBytes: Infinity, model: { name, sha256 } };
}

export function analyze(_file, image) {
  return send({ image }, [image.data.buffer]);
}

export async function compare(a, b) {
  const embeddings = [];
  for (const slot of [a, b]) {
    const record = await send({ image: slot.image(), identity: true });
    const face = record.faces[slot.face];
    embeddings.push(face[about.network.tasks.find((t) => t.kind === "identity").name].embedding);
  }
  const cosine = embeddings[0].reduce((s, v, i) => s + v * embeddings[1][i], 0);
  const similarity = Number(Math.max(-1, Math.min(1, cosine)).toFixed(3));
  return about.threshold ? { similarity, same: similarity >= about.threshold.threshold, ...about.threshold } : { similarity };
}

export function identify() {
  throw new Refused("There is no gallery here.");
}
