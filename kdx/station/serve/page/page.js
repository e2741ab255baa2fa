// The page of kdx serve: it shows the state that the server sends, and sends what an operator says.

const BANDS = {
  good: { sign: "✓", name: "Good" },
  review: { sign: "?", name: "Review" },
  defective: { sign: "✕", name: "Defective" },
  undecided: { sign: "–", name: "Undecided" },
};
const UNREADABLE = { sign: "!", name: "Unreadable" }; // only among the parts to review
const REASONS = {
  not_finite: "the runtime returned a value that is not finite",
  below_range: "the runtime returned a value that the method cannot give",
  score_mismatch: "the score is not the maximum of the map",
  no_threshold: "the bundle has no valid threshold: calibrate it",
  other_region: "the threshold belongs to another region of interest",
  frame: "the frame shows no part",
  backend_failed: "the backend failed",
};
const MS_TO_SEE = 500; // a key that is pressed sooner was meant for the part before

const at = (id) => document.getElementById(id);
let state = null;
let pinned = null; // the verdict that the operator looks at; null follows the line
let lastSaid = null; // what Undo takes back: a part, and what was said of it
let answered = null; // the part to review that the operator answered last
let unseen = null; // the part to review that has just come in the place of another
let busy = false;

// Returns an element with attributes and children; text is never read as HTML.
function make(tag, attributes = {}, ...children) {
  const isSvg = ["svg", "rect", "line"].includes(tag);
  const element = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const count = (value) => value.toLocaleString("en");
const number = (value) => (value === null ? "–" : Number(value.toPrecision(4)).toString());
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");
const clock = (time) => new Date(time).toLocaleTimeString("en-GB");

function chosenBundles() {
  const name = at("bundle").value;
  return state.shift.bundles.filter((bundle) => !name || bundle.name === name);
}

const isChosen = (part) => !at("bundle").value || part.bundle === at("bundle").value;

function showFigures() {
  const bundles = chosenBundles();
  const total = (band) => bundles.reduce((sum, bundle) => sum + bundle.counts[band], 0);
  const parts = Object.keys(BANDS).reduce((sum, band) => sum + total(band), 0);
  const tile = (name, value, more, kind = "") =>
    make("li", { class: `tile ${kind}` }, make("span", { class: "name" }, name), make("b", {}, value), make("span", { class: "more" }, more));
  const tiles = Object.entries(BANDS).map(([band, { sign, name }]) =>
    tile(`${sign} ${name}`, count(total(band)), parts ? `${percent(total(band), parts)} of ${count(parts)}` : "no part yet", band));
  tiles.push(tile("Unreadable", count(total("unreadable")), "no verdict", total("unreadable") ? "unreadable" : ""));
  const worst = (key, among = bundles) => among.map((bundle) => bundle[key]).filter((value) => value !== null).sort((a, b) => b - a)[0] ?? null;
  const p50 = worst("p50_ms");
  tiles.push(tile("Verdict time", p50 === null ? "–" : `${number(p50)} ms`, p50 === null ? "no part yet" : `99 % in ${number(worst("p99_ms"))} ms`));
  const alarmed = bundles.filter((bundle) => bundle.drift_alarm); // as kdx drift decides
  const moved = alarmed.length > 0;
  const drift = worst("drift", moved ? alarmed : bundles);
  tiles.push(tile("Score drift", drift === null ? "–" : drift.toFixed(2),
    drift === null ? "needs 50 parts" : moved ? "the scores have moved" : "no alarm", moved ? "alarm" : ""));
  at("tiles").replaceChildren(...tiles);
}

// The score on a line from 0 to twice the threshold, with the limits as ticks.
function scoreLine(part) {
  const said = make("span", {}, `score ${number(part.score)}` + (part.threshold === null ? "" : `, defective above ${number(part.threshold)}`) +
    (part.review_threshold === null ? "" : `, review above ${number(part.review_threshold)}`));
  if (part.score === null || !(part.threshold > 0)) return make("div", { class: "scale" }, said);
  const x = (value) => Math.max(0, Math.min(100, (50 * value) / part.threshold));
  const svg = make("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    make("rect", { class: "track", width: 100, height: 8 }), make("rect", { class: "value", width: x(part.score), height: 8 }));
  for (const [limit, kind] of [[part.threshold, ""], [part.review_threshold, "review"]]) {
    if (limit !== null) svg.append(make("line", { class: `limit ${kind}`, x1: x(limit), x2: x(limit), y1: 0, y2: 8, "vector-effect": "non-scaling-stroke" }));
  }
  return make("div", { class: "scale" }, svg, said);
}

function pictureOf(part, folder) {
  const base = `live/${folder}/${encodeURIComponent(part.verdict_id)}`;
  const box = make("div", { class: "picture" });
  const photo = make("img", { src: `${base}/image`, alt: `Image of ${nameOf(part)}` });
  photo.addEventListener("error", () => box.replaceChildren(make("p", {}, part.verdict === "unreadable" ? "What was sent could not be read as an image." : "The picture is no longer kept.")));
  box.append(photo);
  if (part.has_map) box.append(make("img", { class: "heat", src: `${base}/heat`, alt: "Heat map, outlined at the pixel threshold" }));
  return box;
}

const nameOf = (part) => (part.part_id ? `part ${part.part_id}` : part.image ?? "a part without a name");

function showPart(target, part, folder, empty) {
  if (!part) {
    target.className = "part";
    target.dataset.shown = "";
    target.replaceChildren(make("p", { class: "empty" }, ...[empty].flat()));
    return;
  }
  if (target.dataset.shown === part.verdict_id) return; // pictures are not loaded again
  target.dataset.shown = part.verdict_id;
  const { sign, name } = BANDS[part.verdict] ?? UNREADABLE;
  const several = state.shift.bundles.length > 1 ? ` · ${part.bundle}` : "";
  const why = part.reason ? REASONS[part.reason] ?? part.reason : "";
  const faults = part.frame_faults.length ? ` (${part.frame_faults.join(", ").replaceAll("_", " ")})` : "";
  target.className = `part ${part.verdict}`;
  target.replaceChildren(pictureOf(part, folder), make("div", { class: "caption" },
    make("span", { class: "word" }, `${sign} ${name}`),
    make("span", { class: "what" }, `${nameOf(part)} · ${clock(part.time)}${several}`),
    ...(why ? [make("span", { class: "why" }, `${why}${faults}`)] : []), scoreLine(part)));
}

function showLatest() {
  const parts = state.shift.latest.filter(isChosen);
  const shown = pinned ?? parts[0];
  at("follow").hidden = pinned === null;
  at("h-latest").textContent = pinned === null ? "Latest verdict" : "Chosen verdict";
  showPart(at("latest"), shown, "verdicts", "No part yet. The page shows each one as it is judged.");
  const known = new Map([...at("strip").children].map((item) => [item.dataset.id, item]));
  at("strip").replaceChildren(...parts.map((part) => {
    const item = known.get(part.verdict_id) ?? thumbOf(part);
    item.firstChild.setAttribute("aria-current", String(part.verdict_id === shown.verdict_id));
    return item;
  }));
}

function thumbOf(part) {
  const { sign, name } = BANDS[part.verdict];
  const label = `${name}, ${nameOf(part)}, ${clock(part.time)}`;
  const button = make("button", { type: "button", class: part.verdict, "aria-label": label, title: label },
    make("img", { src: `live/verdicts/${encodeURIComponent(part.verdict_id)}/image`, alt: "" }),
    make("span", {}, `${sign} ${part.part_id ?? name}`));
  button.addEventListener("click", () => {
    pinned = part;
    showLatest();
  });
  return make("li", { "data-id": part.verdict_id }, button);
}

const partToReview = () => (state.reviews?.parts ?? []).find(isChosen);

// Holds the buttons and keys for a moment where the part changes without the operator's doing.
function holdIfUnseen(part, before) {
  if (!part || part.verdict_id === before || (before && before === answered)) return;
  unseen = part.verdict_id;
  setTimeout(() => {
    if (unseen !== part.verdict_id) return; // another one has come
    unseen = null;
    showReview();
  }, MS_TO_SEE);
}

function showReview() {
  const reviews = state.reviews;
  if (!reviews) {
    showPart(at("review"), null, "", ["Parts are kept for review where the server has a folder: ", make("code", {}, "kdx serve BUNDLE --data FOLDER")]);
    return;
  }
  const chosen = Object.entries(reviews.bundles).filter(([bundle]) => isChosen({ bundle }));
  const total = (kind) => count(chosen.reduce((sum, [, counts]) => sum + counts[kind], 0));
  at("waiting").textContent = `${total("waiting")} waiting · ${total("good")} said good · ${total("defective")} said defective` +
    (reviews.lost ? ` · ${count(reviews.lost)} not kept` : "");
  const part = partToReview();
  holdIfUnseen(part, at("review").dataset.shown);
  showPart(at("review"), part, "reviews", "Nothing waits. Parts that are not good come here.");
  at("statement").hidden = !part && !lastSaid;
  for (const button of document.querySelectorAll(".say, #later")) button.disabled = !part || busy || unseen;
  at("undo").disabled = !lastSaid || busy;
}

function show() {
  if (!state) return;
  const names = state.shift.bundles.map((bundle) => bundle.name);
  at("names").textContent = names.length === 1 ? names[0] : "";
  at("choice").hidden = names.length === 1;
  if (at("bundle").options.length === 0) {
    at("bundle").append(make("option", { value: "" }, "all"), ...names.map((name) => make("option", { value: name }, name)));
  }
  at("shift").hidden = at("begin").hidden = false;
  at("since").textContent = new Date(state.shift.since).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  at("since").dateTime = state.shift.since;
  showFigures();
  showLatest();
  showReview();
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!response.ok) throw new Error((await response.json()).detail);
}

async function say(verdictId, said, before, text) {
  const who = at("who").value.trim();
  at("who").classList.toggle("wrong", !who);
  if (!who) {
    at("outcome").textContent = "Write your name first: it is kept with what you say.";
    at("who").focus();
    return false;
  }
  busy = true;
  showReview();
  try {
    await post(`live/reviews/${encodeURIComponent(verdictId)}`, { said, who, before });
    at("outcome").textContent = text;
    return true;
  } catch (error) {
    at("outcome").textContent = `Error: ${error.message}`;
    return false;
  } finally {
    busy = false;
    showReview();
  }
}

// Returns the part that the operator sees, or nothing if it has only just come.
function partToAnswer() {
  if (unseen) at("outcome").textContent = "Another part is shown now: look at it first.";
  return busy || unseen ? undefined : partToReview();
}

const othersThan = (part) => state.reviews.parts.filter((each) => each.verdict_id !== part.verdict_id);

async function sayOfPart(said) {
  const part = partToAnswer();
  if (!part) return;
  answered = part.verdict_id;
  if (await say(part.verdict_id, said, null, `Kept: ${nameOf(part)} is ${said}.`)) {
    lastSaid = { part, said };
    state.reviews.parts = othersThan(part); // until the server sends the queue
    showReview();
  } else answered = null;
}

async function undo() {
  if (!lastSaid || busy) return;
  const { part, said } = lastSaid;
  if (await say(part.verdict_id, null, said, `Taken back: ${nameOf(part)} waits again.`)) {
    lastSaid = null;
    showReview();
  }
}

function putOff() {
  const part = partToAnswer();
  if (!part) return;
  answered = part.verdict_id;
  state.reviews.parts = [...othersThan(part), part]; // until the server sends the queue
  showReview();
  post(`live/reviews/${encodeURIComponent(part.verdict_id)}/later`, {}).catch((error) => {
    at("outcome").textContent = `Error: ${error.message}`;
  });
}

function switchHeat() {
  const hides = document.body.classList.toggle("without-heat");
  document.querySelector(".heat-switch").setAttribute("aria-pressed", String(!hides));
}

function follow() {
  pinned = null;
  showLatest();
}

function connect() {
  const events = new EventSource("live/events");
  events.addEventListener("open", () => setConnection("live", "live"));
  events.addEventListener("message", (event) => {
    state = JSON.parse(event.data);
    show();
  });
  events.addEventListener("error", async () => {
    setConnection("lost", "connection lost");
    if (events.readyState !== EventSource.CLOSED) return; // the browser tries again
    const response = await fetch("v1/bundles").catch(() => null);
    if (response?.status === 401) {
      setConnection("", "a token is needed");
      at("entry").hidden = false;
      at("content").hidden = true;
      at("token").focus();
    } else setTimeout(connect, 2000);
  });
}

function setConnection(kind, text) {
  at("connection").className = `chip ${kind}`;
  at("connection").textContent = text;
  document.body.classList.toggle("stale", kind === "lost"); // what is shown may no longer be so
}

at("entry").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await post("session", { token: at("token").value });
  } catch (error) {
    at("refused").textContent = error.message;
    return;
  }
  at("token").value = at("refused").textContent = "";
  at("entry").hidden = true;
  at("content").hidden = false;
  connect();
});
at("begin").addEventListener("click", () => post("live/shift", {}).catch((error) => setConnection("lost", error.message)));
at("bundle").addEventListener("change", show);
at("follow").addEventListener("click", follow);
at("later").addEventListener("click", putOff);
at("undo").addEventListener("click", undo);
document.querySelector(".heat-switch").addEventListener("click", switchHeat);
for (const button of document.querySelectorAll(".say")) button.addEventListener("click", () => sayOfPart(button.dataset.said));
at("who").value = localStorage.getItem("kdx-who") ?? "";
at("who").addEventListener("change", () => localStorage.setItem("kdx-who", at("who").value.trim()));

const KEYS = { g: () => sayOfPart("good"), d: () => sayOfPart("defective"), l: putOff, u: undo, h: switchHeat, Escape: follow };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.closest("input, select")) return;
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault(); // where the key moves the focus into the field of the name, its letter stays out of it
  act();
});

connect();
