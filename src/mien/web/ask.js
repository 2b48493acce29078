// Asking the server: the routes of docs/server.md, and its errors as one kind of Error.

/** What the server, or the way to it, refused. code, id: as the server gave them. */
export class Refused extends Error {
  constructor(message, { code = "", id = "", status = 0 } = {}) {
    super(message);
    Object.assign(this, { code, id, status });
  }
}

let key = "";
export const useKey = (value) => { key = value.trim(); };

async function ask(route, form, signal, method = form ? "POST" : "GET") {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  let reply;
  try {
    reply = await fetch(route, { method, body: form, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is `mien serve` still running?");
  }
  const json = await reply.json().catch(() => null);
  if (reply.ok && json) return json;
  const wrong = json?.error;
  const text = wrong?.message ?? `The server answered ${reply.status} without saying why.`;
  throw new Refused(text, { code: wrong?.code, id: json?.request_id, status: reply.status });
}

function formOf(files, fields = {}) {
  const form = new FormData();
  for (const file of files) form.append("image", file, "picture");
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return form;
}

/** What is on offer: {tasks, identity, gallery, most (bytes), models}. */
export async function offer() {
  const [{ models, limits }, { paths }] = [await ask("v1/models"), await ask("openapi.json")];
  const tasks = models[0].tasks.map((t) => t.name);
  const identity = tasks.some((n) => n.startsWith("identity"));
  return { tasks, identity, gallery: identity && "/v1/gallery/identify" in paths, most: limits.picture_bytes, model: models[0] };
}

/** A picture's record (docs/schema.md), with masks. */
export async function analyze(file, _image, signal) {
  return (await ask("v1/analyze", formOf([file], { masks: "runs" }), signal)).results[0];
}

/** a, b: {file, face, faces, crop}. -> {similarity, same?, threshold?, false_match_rate?}. */
export async function compare(a, b) {
  // The server compares the largest faces. Where the chosen one is not, it is cut out; else the picture goes as it is.
  const [first, second] = await Promise.all([a, b].map((s) => (s.face === 0 ? s.file : s.crop())));
  return ask("v1/verify", formOf([first, second]));
}

/** Who is in a picture: the faces' matches and candidates. */
export async function identify(file) {
  return (await ask("v1/gallery/identify", formOf([file], { top: "3" }))).results[0];
}

/** Adds the one face of a picture, or the largest. fields: {name, note, until?}. */
export async function enrol(file, fields) {
  return (await ask("v1/gallery/people", formOf([file], { ...fields, pick: "largest" }))).added;
}

/** Who is in the gallery. */
export async function people() {
  return (await ask("v1/gallery/people")).people;
}

/** Erases somebody, by id. -> {people, faces, corrections}. */
export async function forget(person) {
  return ask(`v1/gallery/people/${encodeURIComponent(person)}`, undefined, undefined, "DELETE");
}
