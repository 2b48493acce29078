// Requests to the server: the routes of docs/server.md, with all errors as one class.

/** An error of the server or of the connection. code, id: from the server's reply. */
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
  const text = wrong?.message ?? `The server replied with status ${reply.status} and gave no reason.`;
  throw new Refused(text, { code: wrong?.code, id: json?.request_id, status: reply.status });
}

function formOf(files, fields = {}) {
  const form = new FormData();
  for (const file of files) form.append("image", file, "picture");
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return form;
}

/** What the server offers: {tasks, identity, gallery, maxBytes, model}. */
export async function offer() {
  const [{ models, limits }, { paths }] = [await ask("v1/models"), await ask("openapi.json")];
  const tasks = models[0].tasks.map((t) => t.name);
  const identity = tasks.some((n) => n.startsWith("identity"));
  return { tasks, identity, gallery: identity && "/v1/gallery/identify" in paths, maxBytes: limits.picture_bytes, model: models[0] };
}

/** A picture's record (docs/schema.md), with masks. */
export async function analyze(file, _image, signal) {
  return (await ask("v1/analyze", formOf([file], { masks: "runs" }), signal)).results[0];
}

/** a, b: {file, face, faces, crop}. -> {similarity, same?, threshold?, false_match_rate?}. */
export async function compare(a, b) {
  // The server compares the largest faces. Another selected face is cropped; otherwise the picture is sent as it is.
  const [first, second] = await Promise.all([a, b].map((s) => (s.face === 0 ? s.file : s.crop())));
  return ask("v1/verify", formOf([first, second]));
}

/** The matches and candidates of a picture's faces. */
export async function identify(file) {
  return (await ask("v1/gallery/identify", formOf([file], { top: "3" }))).results[0];
}

/** Enrolls the one face of a picture, or the largest. fields: {name, note, until?}. */
export async function enroll(file, fields) {
  return (await ask("v1/gallery/people", formOf([file], { ...fields, pick: "largest" }))).added;
}

/** The people in the gallery. */
export async function people() {
  return (await ask("v1/gallery/people")).people;
}

/** Erases a person by id. -> {people, faces, corrections}. */
export async function forget(person) {
  return ask(`v1/gallery/people/${encodeURIComponent(person)}`, undefined, undefined, "DELETE");
}
