"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PAGE = 12; // cards that are shown at once
const GOOD = 0; // the first type
// The decision is kdx's own: see decide() in kdx/runtime/detector.py.
const state = { reject: data.start, review: data.calibrated ? data.calibrated.review : null, shown: PAGE, open: -1 };

const scaled = (score) => (data.axis.is_log ? Math.log(Math.max(score, 1e-300)) : score);
const low = scaled(data.axis.low), span = scaled(data.axis.high) - low;
const positionOf = (score) => (scaled(score) - low) / span;
const clamp = (value) => Math.min(1, Math.max(0, value));
const scoreAt = (position) => (data.axis.is_log ? Math.exp(low + position * span) : low + position * span);
const text = (value) => String(Number(value.toPrecision(6)));
const percent = (part, whole) => (whole ? (100 * part / whole).toFixed(1) + " %" : "–");

function decide([score, , hasFaults]) {
  if (score > state.reject) return "rejected";
  if (hasFaults) return "undecided";
  return state.review !== null && score > state.review ? "review" : "accepted";
}

function count() {
  const empty = () => ({ all: 0, rejected: 0, review: 0, undecided: 0, accepted: 0 });
  const counts = data.types.map(empty);
  for (const image of data.images) {
    counts[image[1]].all += 1;
    counts[image[1]][decide(image)] += 1;
  }
  const defective = empty();
  counts.slice(1).forEach((each) => Object.keys(defective).forEach((key) => { defective[key] += each[key]; }));
  return { counts, good: counts[GOOD], defective };
}

// What a share says of further parts: an interval only at the bundle's own thresholds, where these images did not choose them.
function certainty(intervals, name) {
  const own = data.calibrated;
  if (!own) return "at a threshold chosen here, so it says nothing of further parts";
  if (state.reject !== own.reject || state.review !== own.review) return "at a threshold moved here, so it says nothing of further parts";
  if (!intervals) return "of images that chose the threshold, so it says nothing of further parts";
  const [least, most] = intervals[name];
  return `95 % interval ${(100 * least).toFixed(1)} to ${(100 * most).toFixed(1)} %`;
}

function element(tag, className, content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}

function tile(kind, label, part, whole, name) {
  const made = element("div", `tile ${kind}`);
  made.append(element("b", "", whole ? `${part} of ${whole}` : "–"), element("span", "", label));
  made.append(element("span", "", whole ? `${percent(part, whole)}; ${certainty(data.intervals[kind], name)}` : "no images"));
  return made;
}

function showCounts() {
  const { counts, good, defective } = count();
  $("tiles").replaceChildren(
    tile("good", "false rejects: good, rejected", good.rejected, good.all, "rejected"),
    tile("good", "good, to review or undecided", good.review + good.undecided, good.all, "others"),
    tile("defective", "misses: defective, accepted", defective.accepted, defective.all, "accepted"),
    tile("defective", "defective, to review or undecided", defective.review + defective.undecided, defective.all, "others"),
  );
  for (const row of document.querySelectorAll("#types tbody tr")) {
    const found = row.dataset.type === "defective" ? defective : counts[Number(row.dataset.type)];
    const parts = [found.rejected, found.review + found.undecided, found.accepted];
    row.querySelectorAll(".live").forEach((cell, i) => { cell.textContent = `${parts[i]} (${percent(parts[i], found.all)})`; });
  }
  const [left, top, width, height] = data.box;
  const point = (id, x, y) => {
    const mark = $(id);
    if (!mark) return;
    mark.setAttribute("cx", left + width * x);
    mark.setAttribute("cy", top + height * (1 - y));
  };
  const found = defective.rejected, rejected = found + good.rejected;
  point("on-roc", good.rejected / good.all, found / defective.all);
  point("on-pr", found / defective.all, rejected ? found / rejected : 1);
}

function showBands() {
  const reject = 1000 * clamp(positionOf(state.reject));
  const review = state.review === null ? reject : Math.min(reject, 1000 * clamp(positionOf(state.review)));
  const band = (id, from, to) => { $(id).setAttribute("x", from); $(id).setAttribute("width", Math.max(0, to - from)); };
  band("band-accept", 0, review);
  band("band-review", review, reject);
  band("band-reject", reject, 1000);
  for (const [id, at] of [["cut-review", review], ["cut-reject", reject]]) {
    $(id).setAttribute("x1", at);
    $(id).setAttribute("x2", at);
  }
  $("cut-review").style.display = state.review === null ? "none" : "";
}

// A threshold of kdx calibrate is the score of a held-out image: [score, rate to ask for, largest expected rate].
function nearest(score) {
  let best = null;
  for (const each of data.settable) {
    if (best === null || Math.abs(positionOf(each[0]) - positionOf(score)) <= Math.abs(positionOf(best[0]) - positionOf(score))) best = each;
  }
  return best;
}

function wanted() {
  const reject = nearest(state.reject);
  const review = reject && state.review !== null ? nearest(state.review) : null;
  return { reject, review: review && review[0] < reject[0] ? review : null };
}

function sayCommand() {
  const { reject, review } = wanted(), says = [];
  $("snap").disabled = reject === null;
  if (reject === null) {
    $("command").textContent = data.command;
    says.push(data.calibrated
      ? "The bundle's calibration kept no scores, so the rate of this threshold is unknown: calibrate once more, and report again."
      : "Which rate gives this threshold is known once the bundle is calibrated: calibrate, and report again. By hand: kdx calibrate --threshold.");
    $("said").textContent = says.join("\n");
    return;
  }
  $("command").textContent = `${data.command} --false-reject-rate ${reject[1]}` + (review ? ` --review-rate ${review[1]}` : "");
  const images = data.calibrated.images, most = data.settable[data.settable.length - 1][0], least = data.settable[0][0];
  says.push(`It sets the threshold ${text(reject[0])}, which at most ${(100 * reject[2]).toFixed(2)} % of further good parts are expected to exceed`
    + (review ? `, and review above ${text(review[0])}, at most ${(100 * review[2]).toFixed(2)} %.` : "."));
  if (state.reject > most) {
    says.push(`The slider is above every score of the ${images} good images held out: no rate gives a higher threshold than ${text(most)}. That takes more good images held out.`);
  } else if (state.reject < least) {
    says.push(`The slider is below every score of the ${images} good images held out: no rate gives a lower threshold than ${text(least)}.`);
  } else if (text(state.reject) !== text(reject[0])) {
    says.push(`The slider is at ${text(state.reject)}; kdx calibrate can set scores of the ${images} good images held out, and this is the nearest.`);
  }
  if (state.review !== null && !review) says.push("The review threshold is not below the threshold that can be set: there is no review band.");
  if (!data.holdsCalibration) {
    const shared = data.calibratedOn === null ? "" : data.calibratedOn ? `, which holds ${data.calibratedOn} of them` : ", and none of them is in it";
    says.push(`The images that the bundle was calibrated on are not exactly the good images of this folder${shared}: put their folder in the place of HELD_OUT_GOOD_IMAGES. On other images the same rate gives another threshold.`);
  }
  if (data.precisions.length) says.push(`It sets those of ${data.precisions.join(" and ")} as well, at the same rates.`);
  $("said").textContent = says.join("\n");
}

// The gallery: how far an image is on the wrong side of what would have decided it rightly.
function wrongness(image) {
  const boundary = image[1] === GOOD || state.review === null ? state.reject : state.review;
  const distance = positionOf(image[0]) - positionOf(boundary);
  return image[1] === GOOD ? distance : -distance;
}

function isMistake(image) {
  const decision = decide(image);
  return image[1] === GOOD ? decision === "rejected" : decision === "accepted";
}

const choices = [
  ["all, worst mistakes first", () => true],
  ["false rejects", (image) => image[1] === GOOD && isMistake(image)],
  ["misses", (image) => image[1] !== GOOD && isMistake(image)],
  ["to review or undecided", (image) => ["review", "undecided"].includes(decide(image))],
  ...data.types.map((name, index) => [`type: ${name}`, (image) => image[1] === index]),
];
choices.forEach(([label], index) => {
  const option = element("option", "", label);
  option.value = index;
  $("show").append(option);
});

function picture(source, className) {
  const made = element("img", className);
  made.src = source;
  made.alt = "";
  return made;
}

function peakOf(shown) {
  const made = element("i", "peak");
  made.style.left = `${100 * shown.peak[0]}%`;
  made.style.top = `${100 * shown.peak[1]}%`;
  return made;
}

function panes(shown) {
  const made = element("span", "panes");
  const isGood = data.images[shown.index][1] === GOOD;
  const contents = [
    [picture(shown.image)],
    [picture(shown.image), picture(shown.heat, "heat"), peakOf(shown)],
    [shown.mask ? picture(shown.mask) : element("span", "none", isGood ? "good part: nothing to mark" : "no mask")],
  ];
  for (const content of contents) {
    const pane = element("span", "pane");
    pane.style.aspectRatio = `${shown.width} / ${shown.height}`;
    pane.append(...content);
    made.append(pane);
  }
  return made;
}

// In units of the threshold, as "score / threshold" in the verdicts; the p-value stands on held-out good images.
function scoreOf([score, , , p]) {
  const relative = state.reject > 0 ? `, ${text(score / state.reject)} × threshold` : "";
  return `score ${text(score)}${relative}${p === null ? "" : `, p ${text(p)}`}`;
}

function saysOf(shown) {
  const image = data.images[shown.index], name = data.types[image[1]], decision = decide(image);
  const what = isMistake(image) ? (image[1] === GOOD ? "False reject" : "Missed") : decision === "review" ? "To review" : decision[0].toUpperCase() + decision.slice(1);
  const made = element("span", "says");
  made.append(element("span", isMistake(image) ? "what mistake" : "what", what), element("span", "", name), element("span", "", scoreOf(image)));
  return made;
}

const cards = new Map();
let order = [];

function cardOf(shown) {
  let card = cards.get(shown);
  if (!card) {
    card = element("button", "card");
    card.type = "button";
    card.title = shown.name;
    card.append(panes(shown), element("span", "says"), element("span", "file", shown.name));
    card.addEventListener("click", () => openViewer(order.indexOf(shown)));
    cards.set(shown, card);
  }
  card.querySelector(".says").replaceWith(saysOf(shown));
  return card;
}

function showGallery() {
  const fits = choices[Number($("show").value)][1];
  order = data.pictures.filter((shown) => fits(data.images[shown.index]));
  order.sort((a, b) => wrongness(data.images[b.index]) - wrongness(data.images[a.index]));
  const focused = document.activeElement;
  $("gallery").replaceChildren(...order.slice(0, state.shown).map(cardOf));
  if (focused && focused.isConnected && focused !== document.activeElement) focused.focus();
  const mistakes = order.filter((shown) => isMistake(data.images[shown.index])).length;
  $("gallery-said").textContent = `${order.length} pictures, ${mistakes} of them mistakes at this threshold`;
  $("more").hidden = order.length <= state.shown;
}

function openViewer(index) {
  if (index < 0 || index >= order.length) return;
  state.open = index;
  const shown = order[index];
  $("viewer-title").textContent = `${index + 1} of ${order.length}`;
  $("viewer-panes").replaceChildren(panes(shown), saysOf(shown), element("span", "file", shown.name));
  if (!$("viewer").open) $("viewer").showModal();
}

function setBlend(value) {
  $("blend").value = $("viewer-blend").value = value;
  document.documentElement.style.setProperty("--blend", value / 100);
}

function update() {
  $("reject").value = Math.round(1000 * clamp(positionOf(state.reject)));
  $("reject-value").value = text(state.reject);
  const hasReview = state.review !== null;
  $("has-review").checked = hasReview;
  $("review").disabled = $("review-value").disabled = !hasReview;
  $("review").value = Math.round(1000 * clamp(positionOf(hasReview ? state.review : state.reject)));
  $("review-value").value = hasReview ? text(state.review) : "";
  $("reject").setAttribute("aria-valuetext", `score ${text(state.reject)}`);
  $("review").setAttribute("aria-valuetext", hasReview ? `score ${text(state.review)}` : "off");
  showBands();
  showCounts();
  sayCommand();
  showGallery();
}

function setReject(score) {
  if (!Number.isFinite(score)) return;
  state.reject = score;
  if (state.review !== null) state.review = Math.min(state.review, score);
  update();
}

function setReview(score) {
  if (!Number.isFinite(score)) return;
  state.review = Math.min(score, state.reject);
  update();
}

function reset() {
  state.reject = data.start;
  state.review = data.calibrated ? data.calibrated.review : null;
  update();
}

$("reject").addEventListener("input", () => setReject(scoreAt($("reject").value / 1000)));
$("review").addEventListener("input", () => setReview(scoreAt($("review").value / 1000)));
$("reject-value").addEventListener("change", () => setReject($("reject-value").valueAsNumber));
$("review-value").addEventListener("change", () => setReview($("review-value").valueAsNumber));
$("has-review").addEventListener("change", () => {
  state.review = $("has-review").checked ? scoreAt(clamp(positionOf(state.reject) - 0.1)) : null;
  update();
});
$("snap").addEventListener("click", () => {
  const { reject, review } = wanted();
  state.reject = reject[0];
  state.review = review ? review[0] : null;
  update();
});
$("reset").addEventListener("click", reset);
$("copy").addEventListener("click", () => {
  const range = document.createRange();
  range.selectNodeContents($("command"));
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  document.execCommand("copy"); // files have no clipboard of the newer kind
});
$("show").addEventListener("change", () => { state.shown = PAGE; showGallery(); });
$("more").addEventListener("click", () => { state.shown += 2 * PAGE; showGallery(); });
for (const id of ["blend", "viewer-blend"]) $(id).addEventListener("input", () => setBlend($(id).value));

$("gallery").addEventListener("keydown", (event) => {
  const all = [...$("gallery").children], at = all.indexOf(document.activeElement);
  const columns = getComputedStyle($("gallery")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (step === undefined || at < 0 || !all[at + step]) return;
  event.preventDefault();
  all[at + step].focus();
});
$("viewer").addEventListener("keydown", (event) => {
  const step = event.target.type === "range" ? undefined : { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  openViewer(state.open + step);
});
$("previous").addEventListener("click", () => openViewer(state.open - 1));
$("next").addEventListener("click", () => openViewer(state.open + 1));
$("close").addEventListener("click", () => $("viewer").close());

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
const nameTheme = () => { $("theme").textContent = isDark() ? "Light" : "Dark"; };
$("theme").addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
dark.addEventListener("change", nameTheme);
nameTheme();
setBlend(100);
update();
