// The gallery's people: enroll the selected face, list people, forget a person. Only if the server has a gallery.
import { el } from "./answers.js";
import { cutOut } from "./compare.js";
import { drawThumbnail } from "./draw.js";

const get = (id) => document.getElementById(id);

/** server: ask.js. selected: () -> {file, bitmap, record, face} or null. failed: (error) -> void. */
export function setUp(server, offer, selected, failed) {
  if (!offer.gallery) return { refresh() {} };
  const consent = get("consent");
  const dialog = get("forget-dialog");
  let leaving = null; // the person that the dialog asks about
  let busy = false;
  get("people-part").hidden = false;

  function say(text) {
    get("people-said").textContent = text;
  }

  function refresh() {
    const now = selected();
    get("enroll-add").disabled = busy || !consent.checked || now === null;
    const canvas = get("enroll-face");
    canvas.hidden = now === null;
    canvas.dataset.face = now === null ? "" : String(now.face + 1);
    canvas.setAttribute("aria-label", now === null ? "No face is selected" : `This is enrolled: face ${now.face + 1} of the picture`);
    if (now) drawThumbnail(canvas, now.bitmap, now.record, now.record.faces[now.face]);
  }

  function row(person) {
    const forget = el("button", { type: "button", "aria-label": `Forget ${person.name}` }, "Forget...");
    forget.addEventListener("click", () => {
      leaving = person;
      get("forget-who").textContent = person.name;
      dialog.returnValue = "";
      dialog.showModal();
    });
    const n = person.faces.length;
    const more = [n === 1 ? "1 face" : `${n} faces`, person.note || "no consent note", person.until && `until ${person.until}`, person.expired && "past the last day"];
    return el("li", el("span", el("b", person.name), el("small", more.filter(Boolean).join("; "))), forget);
  }

  async function list() {
    const people = await server.people();
    get("people").replaceChildren(...people.map(row));
    get("people").hidden = people.length === 0;
    return people.length;
  }

  /** Runs one action at a time; errors are shown where all errors are. */
  async function alone(work) {
    if (busy) return;
    busy = true;
    refresh();
    try {
      await work();
    } catch (error) {
      say("");
      failed(error);
    } finally {
      busy = false;
      refresh();
    }
  }

  consent.addEventListener("change", refresh);

  get("enroll").addEventListener("submit", (event) => {
    event.preventDefault();
    const now = selected();
    const [name, note, until] = ["enroll-name", "enroll-note", "enroll-until"].map((id) => get(id).value.trim());
    if (!consent.checked || !now || !name || !note) return;
    alone(async () => {
      say("Enrolling...");
      // the other people in the picture gave no consent: only this face is sent
      const picture = now.record.faces.length === 1 ? now.file : await cutOut(now);
      const [added] = await server.enroll(picture, { name, note, ...(until ? { until } : {}) });
      get("enroll").reset();
      await list();
      const twin = added.possible_duplicate ? ` It also matches ${added.possible_duplicate.name}.` : "";
      say(`${added.name} is in the gallery.${added.new ? "" : " This picture was enrolled already."}${twin}`);
    });
  });

  get("list-people").addEventListener("click", () => alone(async () => {
    const n = await list();
    say(n === 0 ? "Nobody is in the gallery." : n === 1 ? "One person is in the gallery." : `${n} people are in the gallery.`);
  }));

  get("forget-no").addEventListener("click", () => dialog.close());
  get("forget-yes").addEventListener("click", () => dialog.close("forget"));
  dialog.addEventListener("close", () => {
    const person = leaving;
    leaving = null;
    if (dialog.returnValue !== "forget" || !person) return;
    alone(async () => {
      say(`Forgetting ${person.name}...`);
      const { faces } = await server.forget(person.person);
      get("matches").replaceChildren(); // somebody found before may be gone now
      await list();
      say(`${person.name} is forgotten: ${faces === 1 ? "1 face" : `${faces} faces`} erased.`);
      get("list-people").focus(); // the button that was pressed is gone
    });
  });
  return { refresh };
}
