// One face's answers as elements. The network decides which there are; each is recognized by its form (docs/schema.md).
import { drawPose } from "./draw.js";

const percent = (v) => `${Math.round(100 * v)} %`;
const words = (name) => name.replaceAll("_", " ");
// l_lip is the lower lip; every other l_ is the person's own left
const part = (name) => words({ u_lip: "upper lip", l_lip: "lower lip" }[name] ?? name.replace(/^l_/, "left ").replace(/^r_/, "right "));

/** An element: el("b", "text", child, ...); a first object sets properties. */
export function el(tag, ...rest) {
  const node = document.createElement(tag);
  for (const item of rest) {
    if (item instanceof Node || typeof item !== "object") node.append(item);
    else {
      for (const [name, value] of Object.entries(item)) {
        if (name.startsWith("--")) node.style.setProperty(name, value);
        else if (name.startsWith("aria-")) node.setAttribute(name, value);
        else node[name] = value;
      }
    }
  }
  return node;
}

/** Rows of name, bar, percent. rows: [[name, 0..1, note?], ...]. */
function bars(rows, strong = (v) => v >= 0.5) {
  return el("ul", { className: "bars" }, ...rows.map(([name, v, note]) =>
    el("li", { className: strong(v) ? "yes" : "", title: note ?? "" }, el("span", words(name) + (note ? " *" : "")), el("i", { "--v": v, "aria-hidden": "true" }), el("span", percent(v)))));
}

/** A line of numbers with a stretch and a mark; from, to, at: 0..100. */
export function span(from, to, at) {
  return el("div", { className: "span", "aria-hidden": "true" }, el("i", { "--from": from, "--to": to }), el("u", { "--at": at }));
}

const group = (title, ...children) => el("div", { className: "group" }, el("h3", title), ...children);

function tiles(face) {
  const out = [];
  if (face.age) {
    const { years, low, high, coverage } = face.age;
    const title = `${percent(coverage)} of what the network holds possible lies between ${Math.round(low)} and ${Math.round(high)} years`;
    out.push(el("div", { title }, el("b", { id: "age" }, String(Math.round(years))), el("small", `years; from ${Math.round(low)} to ${Math.round(high)}`), span(low, high, years)));
  }
  if (face.gender) out.push(el("div", el("b", { id: "gender" }, face.gender.label), el("small", `perceived; ${percent(face.gender.probability)}`)));
  const mood = face.expression ?? face.expression7;
  if (mood) out.push(el("div", el("b", { id: "expression" }, mood.label), el("small", `expression; ${percent(mood.probabilities[mood.label])}`)));
  for (const [name, answer] of Object.entries(face)) {
    if (answer?.estimate === undefined) continue;
    const { estimate, low, high, unit } = answer;
    const text = (v) => String(Number(v.toPrecision(3)));
    out.push(el("div", el("b", text(estimate)), el("small", `${words(name)}${unit ? `, ${unit}` : ""}; from ${text(low)} to ${text(high)}`)));
  }
  return el("div", { className: "tiles" }, ...out);
}

/** The likely attributes, the most informative first: those most above their frequency in training data. */
export function notable(answer, rates) {
  const likely = Object.entries(answer).filter(([, v]) => v >= 0.5);
  return likely.sort(([a, v], [b, w]) => w - (rates[b] ?? 0) - (v - (rates[a] ?? 0))).map(([name]) => name);
}

function attributes(answer, { groups, opinions, rates }) {
  const known = new Set(opinions);
  const order = notable(answer, rates);
  const parts = Object.entries(groups).map(([name, members]) => {
    const rows = members.filter((n) => n in answer).map((n) => [n, answer[n], known.has(n) ? "rather an opinion of those who labeled the training pictures" : ""]);
    rows.sort((a, b) => b[1] - a[1]);
    return { name, rows, yes: order.filter((n) => members.includes(n)) };
  });
  const found = parts.filter(({ yes }) => yes.length).sort((a, b) => order.indexOf(a.yes[0]) - order.indexOf(b.yes[0]));
  const rest = parts.filter(({ yes }) => !yes.length);
  const out = found.map(({ name, rows, yes }) => el("details", el("summary", el("b", name), el("span", yes.map(words).join(", "))), bars(rows)));
  if (rest.length) {
    const names = rest.map(({ name }) => name).join(", ").toLowerCase();
    out.push(el("details", el("summary", el("b", "Nothing likely"), el("span", names)), ...rest.map(({ name, rows }) => group(name, bars(rows)))));
  }
  const few = order.filter((n) => !known.has(n) && n !== "Male" && answer[n] - (rates[n] ?? 0) >= 0.2).slice(0, 5);
  const first = few.length ? [el("p", { className: "notable" }, ...few.map((n) => el("span", words(n))))] : [];
  return group("Attributes", ...first, ...out, el("p", { className: "soft" }, "* rather an opinion of those who labeled the training pictures"));
}

function poseOf(pose, title) {
  const canvas = el("canvas", { width: 184, height: 184, "aria-hidden": "true" });
  drawPose(canvas.getContext("2d"), pose, 92, 92, 72, 6);
  const say = [["yaw", "turned right", "turned left"], ["pitch", "looks up", "looks down"], ["roll", "tilted clockwise", "tilted counter-clockwise"]];
  const rows = say.map(([name, more, less]) => {
    const v = pose[name];
    return el("li", `${name} `, el("b", `${v.toFixed(1)}°`), Math.abs(v) < 5 ? "" : ` ${v > 0 ? more : less}`);
  });
  return group(title, el("div", { className: "pose" }, canvas, el("ul", ...rows)), el("p", { className: "soft" }, "Sides are the picture's. Red: right, green: up, blue: ahead."));
}

function partsOf(answer, sets) {
  const colors = Object.fromEntries((sets[answer.set] ?? []).filter((c) => c.head).map((c) => [c.name, c.color]));
  const rows = Object.entries(answer.classes).filter(([name]) => name !== "background").sort((a, b) => b[1] - a[1]);
  const shown = rows.map(([name, v]) => el("li", el("i", { "--c": colors[name] ?? "transparent" }), `${part(name)} ${v < 0.01 ? "< 1 %" : percent(v)}`));
  return group("Parts, by share of the crop", el("ul", { className: "parts" }, ...shown), el("p", { className: "soft" }, "Left and right are the person's own."));
}

/** Whether an answer is yes/no attributes of the weights' own. */
function isRates(answer) {
  if (!answer || typeof answer !== "object" || Array.isArray(answer)) return false;
  const values = Object.values(answer);
  return values.length > 0 && values.every((v) => typeof v === "number" && v >= 0 && v <= 1);
}

/** All answers of a face. about: about.json. */
export function answersOf(face, about) {
  const out = [tiles(face)];
  for (const [name, answer] of Object.entries(face)) {
    if (answer?.probabilities) out.push(group(name === "expression" ? "Expression" : words(name), bars(Object.entries(answer.probabilities))));
    else if (name.startsWith("attributes")) out.push(attributes(answer, about));
    else if (name.startsWith("units")) out.push(group("Action units", bars(Object.entries(answer))));
    else if (answer?.classes) out.push(partsOf(answer, about.sets));
    else if (typeof answer?.yaw === "number") out.push(poseOf(answer, "Head pose"));
    else if (name !== "age" && isRates(answer)) out.push(group(words(name), bars(Object.entries(answer))));
  }
  // expression and pose come first
  const order = ["Expression", "Head pose"];
  const rank = (node) => (order.indexOf(node.querySelector("h3")?.textContent) + 1 || 9) - (node.className === "tiles" ? 99 : 0);
  return out.sort((a, b) => rank(a) - rank(b));
}

/** A short description for the list. */
export function shortly(face) {
  return [face.age && `${Math.round(face.age.years)} y`, (face.expression ?? face.expression7)?.label].filter(Boolean).join(", ");
}
