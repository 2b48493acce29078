// Two faces next to each other, and matches in the gallery: only after consent was confirmed.
import { el, span } from "./answers.js";
import { drawThumbnail } from "./draw.js";

const get = (id) => document.getElementById(id);

/** server: ask.js or local/ask.js. selected: () -> {file, bitmap, record, face, image} or null. failed: (error) -> void. */
export function setUp(server, offer, selected, failed) {
  if (!offer.identity) return { refresh() {} };
  const slots = [null, null];
  const consent = get("consent");
  get("who").hidden = false;
  get("gallery").hidden = !offer.gallery;

  let searched = null; // the picture that the matches are of

  function refresh() {
    if (selected()?.file !== searched) get("matches").replaceChildren();
    const ready = consent.checked && selected() !== null;
    for (const k of [0, 1]) get(`slot-${k}`).querySelector("button").disabled = !ready;
    get("search").disabled = !ready;
  }

  async function judge() {
    if (!consent.checked || !slots[0] || !slots[1]) return;
    get("verdict").replaceChildren(el("p", { className: "soft" }, "Comparing..."));
    try {
      get("verdict").replaceChildren(...verdict(await server.compare(slots[0], slots[1])));
    } catch (error) {
      get("verdict").replaceChildren(el("p", { className: "soft" }, "Not compared."));
      failed(error);
    }
  }

  for (const k of [0, 1]) {
    const slot = get(`slot-${k}`);
    slot.querySelector("button").addEventListener("click", () => {
      const now = selected();
      slots[k] = { ...now, crop: () => cutOut(now) };
      const canvas = slot.querySelector("canvas");
      drawThumbnail(canvas, now.bitmap, now.record, now.record.faces[now.face]);
      canvas.setAttribute("aria-label", `face ${now.face + 1} of ${now.file.name || "the picture"}`);
      judge();
    });
  }

  consent.addEventListener("change", () => {
    refresh();
    if (consent.checked) return judge();
    // consent was withdrawn: nothing is kept
    slots.fill(null);
    for (const k of [0, 1]) {
      const canvas = get(`slot-${k}`).querySelector("canvas");
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      canvas.setAttribute("aria-label", "none yet");
    }
    get("verdict").replaceChildren();
    get("matches").replaceChildren();
  });

  get("search").addEventListener("click", async () => {
    const { file } = selected();
    searched = file;
    get("matches").replaceChildren(el("li", "Searching..."));
    try {
      const { faces } = await server.identify(file);
      if (selected()?.file !== file || !consent.checked) return; // another picture by now, or agreed no more
      get("matches").replaceChildren(...faces.map(({ match, candidates, threshold }, i) => {
        const others = candidates.map((c) => `${c.name} ${c.similarity.toFixed(3)}`).join(", ");
        const found = match ? el("b", match.name) : "unknown";
        return el("li", `Face ${i + 1}: `, found, others ? ` (nearest: ${others}; a match from ${threshold.toFixed(3)} on)` : "");
      }));
    } catch (error) {
      get("matches").replaceChildren();
      failed(error);
    }
  });
  return { refresh };
}

/** Similarity, -1..1, in words. */
function verdict({ similarity, same, threshold, false_match_rate: wrong }) {
  const at = (v) => 50 + 50 * v;
  const out = [el("p", el("b", { id: "similarity" }, similarity.toFixed(3)), " similarity, from -1 to 1; not a probability")];
  if (threshold === undefined) return [...out, el("p", { className: "soft" }, "No threshold was measured for these weights.")];
  const often = wrong ? ` Of pairs of strangers ${(100 * wrong).toPrecision(2)} % reach that.` : "";
  const text = same ? "At or above the threshold: one person" : "Below the threshold: not one person";
  return [...out, span(at(threshold), 100, at(similarity)), el("p", `${text}: the threshold is ${threshold.toFixed(3)}.${often}`)];
}

/** The selected face with a margin as a separate picture, if it is not the largest of its picture. */
export function cutOut({ bitmap, record, face }) {
  const [x1, y1, x2, y2] = record.faces[face].box;
  const side = Math.max(x2 - x1, y2 - y1);
  const [left, top] = [Math.max(0, x1 - side / 2), Math.max(0, y1 - side / 2)].map(Math.round);
  const [width, height] = [Math.min(record.width, x2 + side / 2) - left, Math.min(record.height, y2 + side / 2) - top].map(Math.round);
  const canvas = el("canvas", { width, height });
  canvas.getContext("2d").drawImage(bitmap, -left, -top);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
