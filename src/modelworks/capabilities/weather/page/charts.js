// The meteogram and the scorecard.
import { instant, short, shown } from "./units.js";
import { titleOf, word } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 720, HEIGHT = 200, LEFT = 56, RIGHT = 12, TOP = 12, BOTTOM = 28;

function draw(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// rows: by statistic, the values by step.
export function meteogram(box, map, channel, rows, step) {
  const { units, of } = shown(channel.units);
  const curves = rows.map((row) => Array.from(row, of));
  const known = curves.flat().filter(Number.isFinite);
  box.replaceChildren();
  if (!known.length) return;
  let low = Math.min(...known), high = Math.max(...known);
  if (high - low < 1e-6) { low -= 1; high += 1; }
  const count = map.times.length;
  const x = (at) => LEFT + ((WIDTH - LEFT - RIGHT) * at) / Math.max(1, count - 1);
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (value - low)) / (high - low);
  const line = (values) => values.map((value, at) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`);
  const title = `${titleOf(channel)}, ${units}${curves.length > 1 ? `; ${word("plume")}` : ""}`;
  const svg = draw(box, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 16}`, role: "img", "aria-label": title });
  for (let at = 0; at <= 4; at += 1) {
    const value = low + ((high - low) * at) / 4;
    draw(svg, "line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) });
    draw(svg, "text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value));
  }
  const every = Math.max(1, Math.ceil(count / 6));
  for (let at = 0; at < count; at += every) {
    const anchor = at === 0 ? "start" : at === count - 1 ? "end" : "middle";
    draw(svg, "text", { x: x(at), y: HEIGHT - 8, "text-anchor": anchor }, instant(map.times[at]).slice(5, 16));
  }
  if (curves.length > 1) draw(svg, "polygon", { class: "plume", points: [...line(curves[1]), ...line(curves[3]).reverse()].join(" ") });
  draw(svg, "polyline", { class: "curve", points: line(curves[0]).join(" ") });
  draw(svg, "line", { class: "now", x1: x(step), x2: x(step), y1: TOP, y2: HEIGHT - BOTTOM });
  draw(svg, "text", { x: LEFT, y: HEIGHT + 10 }, title);
}

function cell(row, tag, text, className) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  row.append(made);
}

export const methods = (report) => [...new Set(report.rows.map((row) => row.method))].filter((each) => each !== "model");

// Of the channel that is shown: error by lead time, and the gain on the baseline with its interval.
export function scorecard(box, report, channel, baseline) {
  const of = (method) => report.rows.filter((row) => row.method === method && row.channel === channel.name);
  const scale = channel.units === "Pa" ? 0.01 : 1;
  const table = document.createElement("table");
  const head = table.insertRow();
  for (const text of [word("hours"), `${word("rmse")} (${shown(channel.units).units})`, word(baseline), "Δ"]) cell(head, "th", text);
  const theirs = of(baseline);
  for (const ours of of("model")) {
    const other = theirs.find((row) => row.lead === ours.lead);
    const [low, high] = other?.gain_interval ?? [0, 0];
    const row = table.insertRow();
    cell(row, "th", `+${ours.hours}`);
    cell(row, "td", short(ours.rmse * scale));
    cell(row, "td", other ? short(other.rmse * scale) : "–");
    const change = other ? `${-other.gain > 0 ? "+" : "−"}${Math.abs(other.gain * 100).toFixed(0)} %` : "–";
    cell(row, "td", change, low > 0 ? "good" : high < 0 ? "bad" : "");
  }
  const hint = document.createElement("p");
  hint.className = "hint";
  hint.textContent = word("scoreHint");
  box.replaceChildren(table, hint);
}
