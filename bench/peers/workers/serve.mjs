// The loop of a worker in Node: the same lines as serve.py.

import fs from "node:fs";
import path from "node:path";
import readline from "node:readline";

const say = (message) => fs.writeSync(1, JSON.stringify(message) + "\n");
console.log = console.info = console.warn = console.error; // what a library prints must not stand between the lines

/** A .npy of uint8 in C order -> {data, shape}. */
export function readNpy(file) {
  const bytes = fs.readFileSync(file);
  const long = bytes[6] > 1;
  const start = (long ? 12 : 10) + (long ? bytes.readUInt32LE(8) : bytes.readUInt16LE(8));
  const head = bytes.subarray(10, start).toString("latin1");
  const shape = /'shape': \(([^)]*)\)/.exec(head)[1].split(",").filter((s) => s.trim()).map(Number);
  if (!/'descr': '\|u1'/.test(head) || /'fortran_order': True/.test(head)) throw new Error(`${file} is not uint8 in C order: ${head}`);
  return { data: new Uint8Array(bytes.subarray(start)), shape };
}

/** The weights' bytes by file. */
export const sizes = (files) => Object.fromEntries(files.map((f) => [path.basename(f), fs.statSync(f).size]));

/** Answer until stdin ends. prepare(photo) and tell(raw, job) are not timed, call(input, job) is; done(input) frees it. */
export async function serve({ prepare, call, tell, done, versions, weights }) {
  say({ ready: true, versions, weights: sizes(weights) });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    const input = prepare(readNpy(order.photo));
    const ms = [], cpu = [];
    let raw;
    for (let i = 0; i < (order.times ?? 1); i++) {
      const wall = performance.now(), before = process.cpuUsage();
      raw = await call(input, order.job);
      ms.push(performance.now() - wall);
      const used = process.cpuUsage(before);
      cpu.push((used.user + used.system) / 1000);
    }
    const faces = tell(raw, order.job);
    done(input);
    say({ ms, cpu_ms: cpu, found: faces.length, faces: order.tell === false ? [] : faces });
  }
}

/** From an environment's folder, by name. */
export const versionsOf = (home, names) =>
  Object.fromEntries(names.map((n) => [n, JSON.parse(fs.readFileSync(path.join(home, "node_modules", n, "package.json"))).version]));
