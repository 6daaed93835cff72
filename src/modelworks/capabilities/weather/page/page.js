// The weather page: which forecasts there are, and one of them looked at.
import { methods, meteogram, scorecard } from "./charts.js";
import { WeatherMap, colour } from "./map.js";
import { Refused, ask, enter, floats, forget, keep, post } from "./server.js";
import { instant, short, shown } from "./units.js";
import { speak, spoken, titleOf, word } from "./words.js";

const REGION = "region-map"; // the folder of what a downscaling model made of a forecast
const one = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
let map = null; // what is drawn on
let opened = null; // the forecast that is looked at
let asked = 0; // the newest wish; answers to older ones are left
let playing = null;
let runs = [];

function fault(error) {
  one("problem").textContent = error ? (error instanceof TypeError ? word("unreachable") : error.message) : "";
  one("problem").hidden = !error;
  if (error) console.warn(error);
}
const guarded = (work) => async (...given) => {
  try { await work(...given); } catch (error) { fault(error); }
};
function say(text) {
  fault(null);
  one("said").textContent = text;
}
function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}

async function begin() {
  try {
    take(await enter());
  } catch (error) {
    if (!(error instanceof Refused) || ![401, 403].includes(error.status)) throw error;
    const hadKey = sessionStorage.length > 0;
    forget();
    one("door").hidden = false;
    one("main").hidden = true;
    document.body.dataset.state = "door";
    fault(hadKey ? error : null);
    return;
  }
  fault(null);
  one("door").hidden = true;
  one("main").hidden = false;
  const lines = await (await fetch(new URL("coastlines.json", import.meta.url))).json();
  map ??= new WeatherMap(one("map"), lines.lines);
  document.body.dataset.state = "ready";
  const newest = mine().find((run) => run.state === "succeeded");
  if (newest) await open(newest);
  for (const [id, path] of [["models", "api/models"], ["datasets", "api/datasets"]])
    options(one(id), (await ask(path)).data.map((each) => [each.name, each.name]));
}

const trackRuns = () => runs.filter((run) => run.task === "cyclone-tracking" && run.state === "succeeded");
// Runs whose grids are looked at here: forecasts, and coarse grids that were made finer.
const mine = () => runs.filter((run) => ["weather-forecast", "weather-downscaling"].includes(run.task) && run.verb === "batch");

function take(listed) {
  runs = listed.data;
  one("empty").hidden = mine().length > 0;
  one("runs").replaceChildren(...mine().map(row));
  offerTracks();
  if (mine().some((run) => ["queued", "running", "validating_files"].includes(run.state))) setTimeout(guarded(look), 1000);
}

// Runs that found cyclones, of which one can be drawn on the map.
function offerTracks() {
  const kept = one("tracks").value;
  options(one("tracks"), [["", word("noTracks")], ...trackRuns().map((run) => [run.id, `${run.inputs.forecast?.ref ?? run.id} · ${instant(run.created_at)}`])]);
  if (trackRuns().some((run) => run.id === kept)) one("tracks").value = kept;
  one("tracks-label").hidden = !trackRuns().length;
}

async function showTracks() {
  const id = one("tracks").value, run = trackRuns().find((each) => each.id === id);
  const digest = run && (await fileOf(run, "tracks", "tracks.geojson"));
  if (run && !digest) throw new Error(word("noTracksFile"));
  const features = digest ? (await ask(`api/blobs/${digest}`)).features : [];
  // Another one was chosen meanwhile.
  if (one("tracks").value !== id) return;
  fault(null);
  map.tracks = features;
  map.draw();
  tellTracks();
}

function tellTracks() {
  const count = map.tracks.filter((each) => each.geometry.type === "LineString" && each.properties.kind !== "track").length;
  const cone = map.tracks.find((each) => each.properties.kind === "cone")?.properties.coverage;
  one("tracks-told").textContent = one("tracks").value ? word("tracksTold")(count, cone && Math.round(100 * cone)) : "";
  one("tracks-told").hidden = !one("tracks").value;
  document.body.dataset.tracks = String(map.tracks.length);
}

async function look() {
  const before = new Map(mine().map((run) => [run.id, run.state]));
  take(await ask("api/runs?limit=100"));
  const done = mine().find((run) => run.state === "succeeded" && before.get(run.id) !== "succeeded");
  if (done) await open(done);
}

function row(run) {
  const item = document.createElement("li"), button = document.createElement("button"), small = document.createElement("small");
  button.type = "button";
  button.textContent = run.inputs.model?.ref ?? word("persistence");
  button.disabled = run.state !== "succeeded";
  button.setAttribute("aria-current", String(opened?.run.id === run.id));
  button.addEventListener("click", guarded(() => open(run)));
  const kind = isFiner(run) ? ` · ${word("downscaled")}` : "";
  small.textContent = `${instant(run.created_at)}${kind} · ${word("states")[run.state] ?? run.state}${run.error ? `: ${run.error.message}` : ""}`;
  button.append(small);
  item.append(button);
  if (["queued", "running"].includes(run.state)) {
    const bar = document.createElement("progress"), stop = document.createElement("button");
    if (run.progress) { bar.max = run.progress.total; bar.value = run.progress.done; }
    stop.type = "button";
    stop.textContent = word("cancel");
    stop.disabled = Boolean(run.cancel_requested_at);
    stop.addEventListener("click", guarded(async () => { await post(`api/runs/${run.id}/cancel`); say(word("cancelling")); await look(); }));
    item.append(bar, " ", stop);
  }
  return item;
}

const isFiner = (run) => run.task === "weather-downscaling";

async function fileOf(run, kind, name) {
  for (const output of run.outputs.filter((each) => each.kind === kind)) {
    const file = (await ask(`api/versions/${output.version_id}`)).files.find((each) => `/${each.path}`.endsWith(`/${name}`));
    if (file) return file.digest;
  }
  return null;
}

// `area`: the folder of the map that is drawn; a forecast may have one of a finer region beside its own.
async function open(run, area = "map") {
  stop();
  const wish = (asked += 1);
  const digest = await fileOf(run, "grid", `${area}/map.json`);
  if (!digest) throw new Error(word("noMap"));
  const told = await ask(`api/blobs/${digest}`);
  const model = run.inputs.model ? await ask(`api/versions/${run.inputs.model.version_id}`) : null;
  const found = { run, told, model, area, frames: new Map(), place: null, rows: null };
  found.report = area === "map" ? await reportOf(run) : null;
  found.hasRegion = Boolean(await fileOf(run, "grid", `${REGION}/map.json`));
  found.fields = await fileOf(run, "grid", `${area}/fields.f32`);
  found.series = await fileOf(run, "grid", `${area}/series.f32`);
  if (wish !== asked) return;
  opened = found;
  fault(null);
  map.setGrid(told.latitudes, told.longitudes);
  one("time").max = told.times.length - 1;
  one("time").value = 0;
  retell();
  fillLevels();
  one("forecast").hidden = false;
  one("runs").replaceChildren(...mine().map(row));
  await show();
}

async function reportOf(run) {
  const version = run.inputs.model?.version_id;
  const measured = runs.find(
    (each) => each.task === "weather-forecast" && each.verb === "evaluate" && each.state === "succeeded" && Object.values(each.inputs).some((input) => input.version_id === version),
  );
  const digest = measured && version && (await fileOf(measured, "report", "verification.json"));
  return digest ? ask(`api/blobs/${digest}`) : null;
}

function fillLevels() {
  const levels = opened.told.channels.filter((each) => each.variable === one("variable").value);
  options(one("level"), levels.map((each) => [each.name, each.level_hpa === null ? word("surface") : `${each.level_hpa} hPa`]));
}

// What is said in words, again in another language.
function retell() {
  const { told, model, report, area, hasRegion } = opened;
  options(one("area"), [["map", word("wholeField")], [REGION, word("region")]]);
  one("area").value = area;
  one("area-label").hidden = !hasRegion;
  options(one("variable"), [...new Map(told.channels.map((each) => [each.variable, titleOf(each)]))]);
  one("about").textContent = `${told.title}${told.members ? ` · ${told.members} ${word("ofMembers")}` : ""}`;
  one("notice").textContent = told.notice;
  one("licence").textContent = model?.licence ? word("licence") + model.licence : word("noLicence");
  one("licence").hidden = !model;
  one("baseline-label").hidden = !report;
  if (report) options(one("baseline"), methods(report).sort((a) => (a === "persistence" ? -1 : 1)).map((each) => [each, word(each)]));
  one("time").setAttribute("aria-label", word("time"));
  one("play").textContent = word(playing ? "pause" : "play");
  one("place").textContent = word("noPlace");
}

const chosen = () => opened.told.channels.findIndex((each) => each.name === one("level").value);

async function frame(step, channel) {
  const { told, frames } = opened, size = told.latitudes.length * told.longitudes.length;
  const at = step * told.channels.length + channel;
  if (!frames.has(at)) {
    if (frames.size > 60) frames.clear();
    frames.set(at, floats(opened.fields, at * size, size));
    frames.get(at).catch(() => frames.delete(at));
  }
  return frames.get(at);
}

function windOf(channel) {
  const level = channel.level_hpa;
  const of = (names) => opened.told.channels.findIndex((each) => names.includes(each.variable) && each.level_hpa === level);
  const [u, v] = [of(level === null ? ["u10"] : ["u"]), of(level === null ? ["v10"] : ["v"])];
  return u < 0 || v < 0 ? null : [u, v];
}

async function show() {
  const wish = (asked += 1), step = Number(one("time").value), index = chosen(), channel = opened.told.channels[index];
  const field = await frame(step, index);
  const pair = windOf(channel);
  const wind = pair && one("wind").checked ? await Promise.all(pair.map((each) => frame(step, each))) : null;
  if (wish !== asked) return;
  const { units, of } = shown(channel.units);
  map.time = Date.parse(opened.told.times[step]);
  map.setField(field, channel.min ?? 0, channel.max ?? 1);
  opened.wind = wind;
  one("wind-label").hidden = !pair;
  const lead = isFiner(opened.run) ? "" : ` (+${Math.round((step + 1) * opened.told.step_hours)} ${word("hours")})`;
  one("when").textContent = instant(opened.told.times[step]) + lead;
  one("time").setAttribute("aria-valuetext", one("when").textContent);
  one("map").setAttribute("aria-label", `${word("map")} ${titleOf(channel)}, ${one("when").textContent}`);
  one("range").textContent = `${short(of(channel.min ?? 0))} – ${short(of(channel.max ?? 0))} ${units}`;
  const pen = one("scale").getContext("2d");
  for (let x = 0; x < 240; x += 1) { pen.fillStyle = `rgb(${colour(x / 240)})`; pen.fillRect(x, 0, 1, 14); }
  charts();
  if (wind && still.matches) map.blow(...wind);
  else if (wind) requestAnimationFrame(() => drift(wind));
  document.body.dataset.step = String(step);
  document.body.dataset.channel = channel.name;
}

function drift(wind) {
  if (opened?.wind !== wind) return;
  map.blow(...wind);
  requestAnimationFrame(() => drift(wind));
}

function charts() {
  const channel = opened.told.channels[chosen()];
  if (opened.rows) meteogram(one("meteogram"), opened.told, channel, opened.rows(chosen()), Number(one("time").value));
  else one("meteogram").replaceChildren();
  const { report } = opened;
  if (report) scorecard(one("scorecard"), report, channel, one("baseline").value);
  else one("scorecard").textContent = word("noScores");
  if (opened.place) one("place").textContent = opened.place;
}

async function choose(row, column) {
  const { told } = opened, here = opened, steps = told.times.length, num = told.statistics.length, size = told.channels.length * num * steps;
  here.cell = [row, column];
  const latitude = told.latitudes[row], longitude = told.longitudes[column];
  map.cursor = { latitude, longitude };
  map.draw();
  const values = await floats(here.series, (row * told.longitudes.length + column) * size, size);
  if (opened !== here || here.cell[0] !== row || here.cell[1] !== column) return;
  here.rows = (channel) => told.statistics.map((_, at) => values.subarray((channel * num + at) * steps, (channel * num + at + 1) * steps));
  const east = ((longitude + 540) % 360) - 180;
  here.place = `${Math.abs(latitude)}°${latitude < 0 ? "S" : "N"} ${Math.abs(east)}°${east < 0 ? "W" : "E"}`;
  charts();
}

const nearest = (values, wanted) => values.reduce((best, value, at) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? at : best), 0);

function clicked(event) {
  const box = one("map").getBoundingClientRect();
  const [latitude, longitude] = map.placeOf(((event.clientX - box.left) / box.width) * one("map").width, ((event.clientY - box.top) / box.height) * one("map").height);
  return choose(nearest(opened.told.latitudes, latitude), nearest(opened.told.longitudes, longitude));
}

function moved(event) {
  const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Enter: [0, 0] }[event.key];
  if (!way) return undefined;
  event.preventDefault();
  const { latitudes, longitudes } = opened.told;
  const [row, column] = opened.cell ?? [latitudes.length >> 1, longitudes.length >> 1];
  return choose(Math.min(latitudes.length - 1, Math.max(0, row + way[0])), Math.min(longitudes.length - 1, Math.max(0, column + way[1])));
}

function stop() {
  clearInterval(playing);
  playing = null;
  one("play").textContent = word("play");
}

function play() {
  if (playing) return stop();
  playing = setInterval(guarded(async () => {
    one("time").value = (Number(one("time").value) + 1) % opened.told.times.length;
    await show();
  }), 900);
  one("play").textContent = word("pause");
  return undefined;
}

async function start(event) {
  event.preventDefault();
  const params = { steps: Number(one("steps").value), members: Number(one("members").value) };
  const inputs = { model: one("model").value, initial: one("initial").value };
  const finer = one("finer").value.trim();
  if (finer) inputs.downscaling = finer.includes(":") ? finer : `model:${finer}`;
  await post("api/runs", { verb: "batch", capability: "weather", task: "weather-forecast", inputs, params });
  say(word("begun"));
  await look();
}

one("door").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  keep(one("key").value.trim());
  one("key").value = "";
  await begin();
}));
one("language").addEventListener("click", guarded(async () => {
  speak(spoken() === "zh" ? "en" : "zh");
  one("runs").replaceChildren(...mine().map(row));
  one("said").textContent = "";
  offerTracks();
  if (map) tellTracks();
  if (opened) { const level = one("level").value, variable = one("variable").value; retell(); one("variable").value = variable; fillLevels(); one("level").value = level; await show(); }
}));
one("start").addEventListener("submit", guarded(start));
one("variable").addEventListener("change", guarded(async () => { fillLevels(); await show(); }));
for (const id of ["level", "wind"]) one(id).addEventListener("change", guarded(show));
one("area").addEventListener("change", guarded(() => open(opened.run, one("area").value)));
one("tracks").addEventListener("change", guarded(showTracks));
one("time").addEventListener("input", guarded(show));
one("baseline").addEventListener("change", charts);
one("play").addEventListener("click", play);
one("map").addEventListener("click", guarded(clicked));
one("map").addEventListener("keydown", guarded(moved));
speak();
guarded(begin)();
