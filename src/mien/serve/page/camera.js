// The camera view: consent, start and stop, and what the latest rows say.

import { save } from "./api.js";
import { drawChart } from "./chart.js";
import { LiveSession } from "./live_session.js";
import { Rows, SHOWN_S } from "./rows.js";
import { $, announce, count, element, isThisComputer, percent, signed } from "./words.js";

const CHART_MS = 100, FACTS_MS = 500, TRAIL_S = 2;
const AWAY_S = 3;  // a person without a row for so long is not shown as present
let server, session = null, rows = null, names = [], colours = [], parts = {}, selected = null, faces = {}, isFront = true, delayS = 0;

export function start(offer) {
  server = offer;
  $("consent").addEventListener("submit", event => { event.preventDefault(); begin(); });
  $("stop").addEventListener("click", () => session?.stop());
  $("again").addEventListener("click", () => { $("stage").hidden = true; $("consent").hidden = false; $("start").focus(); });
  $("save-rows").addEventListener("click", () => save(new Blob(rows.lines, { type: "application/x-ndjson" }), "live.jsonl"));
  addEventListener("keydown", event => { if (event.key === "Escape" && session) session.stop(); });
  addEventListener("pagehide", () => session?.stop());
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => requestAnimationFrame(draw));
  setInterval(() => { if (session && !document.hidden) draw(); }, CHART_MS);
  setInterval(() => { if (session) showFacts(); }, FACTS_MS);
}

// --- start and stop -------------------------------------------------------------------------------------------------

// What to do about an error of getUserMedia.
const ADVICE = {
  NotAllowedError: "The browser did not allow this page to use the camera or the microphone. Nothing was sent. Allow both in the address bar or in the settings of the browser and of the system, then start again.",
  NotFoundError: "This computer has no such camera or microphone. Connect it, or clear its box above.",
  NotReadableError: "Another program uses the camera or the microphone. End it there, then start again.",
};

async function begin() {
  const video = $("use-camera").checked, audio = $("use-microphone").checked, error = $("camera-error");
  error.textContent = "";
  if (!(video || audio)) { error.textContent = "Choose the camera, the microphone or both."; return; }
  if (!$("agreed").checked) { error.textContent = "Ask everybody who can be seen or heard first, then tick the box."; $("agreed").focus(); return; }
  if (!navigator.mediaDevices) {
    error.textContent = "Browsers give a page the camera only over https, or from a server on the same computer. Open the page there, or put a proxy with TLS before the server (docs/SERVER.md).";
    return;
  }
  $("start").disabled = true;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: video && { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: "user" },
      // Filters for calls change how a voice sounds.
      audio: audio && { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch (problem) {
    error.textContent = ADVICE[problem.name] ?? `The camera could not be started: ${problem.message}. Nothing was sent.`;
    return;
  } finally {
    $("start").disabled = false;
    if (!stream) $("start").focus();  // a button that is disabled loses the focus
  }
  open(stream);
}

function open(stream) {
  const [camera] = stream.getVideoTracks(), microphone = stream.getAudioTracks().length > 0, model = $("model").value;
  isFront = camera?.getSettings().facingMode !== "environment";
  names = []; rows = null; selected = null; faces = {};
  $("consent").hidden = true; $("stage").hidden = false;
  $("video").classList.toggle("mirrored", isFront);
  $("video").srcObject = camera ? stream : null;
  $("video").play().catch(() => {});
  $("sign-text").textContent = camera && microphone ? "Camera and microphone are on" : camera ? "Camera is on" : "Microphone is on";
  showOff(camera ? "" : "No camera: the voice alone is read.");
  setOn(true);
  $("live-facts").textContent = "Loading the model …";
  announce($("sign-text").textContent);
  const own = session = new LiveSession($("video"), stream, new URLSearchParams({ model, delay_s: 1 }), usesVideo());
  prepare(model);
  // The session before may still wait for its last rows: they are not of this one.
  const on = (type, react) => own.addEventListener(type, event => { if (session === own) react(event.detail); });
  on("ready", detail => { delayS = detail.delay_s; $("live-facts").textContent = "Waiting for a face or a voice …"; });
  on("rows", take);
  on("off", () => { setOn(false); announce("Camera and microphone are off."); });
  on("end", finish);
  $("stop").focus();
}

// Chunks of video need a tenth of the bytes of JPEG, which counts beyond this computer. `?pictures=jpeg` or `video` in
// the address decides otherwise.
function usesVideo() {
  const asked = new URLSearchParams(location.search).get("pictures");
  return asked ? asked === "video" : !isThisComputer();
}

function setOn(isOn) {
  $("sign").classList.toggle("on", isOn);
  $("tab-camera").classList.toggle("on", isOn);  // seen while the recordings are shown
  $("camera-is-on").hidden = !isOn;
  if (!isOn) $("sign-text").textContent = "Camera and microphone are off";
  $("stop").hidden = !isOn; $("again").hidden = isOn;
  document.title = isOn ? "● Camera on · mien" : "mien";
  if (!isOn) showOff("The camera is off. Nothing is sent any more.");
}

function showOff(text) { $("off").textContent = text; $("off").hidden = !text; }

function finish(reason) {
  session = null; faces = {};
  const total = rows?.lines.length ?? 0;
  $("live-facts").textContent = reason || `${count(total, "row")}, here in this tab alone`;
  $("live-facts").classList.toggle("error", Boolean(reason));
  $("save-rows").disabled = !total;
  if (reason) { announce(reason); showOff(reason); }
  draw();
  $("again").focus();
}

// --- what the rows say ------------------------------------------------------------------------------------------------

function prepare(model) {
  const offer = server.models.find(m => m.name === model);
  names = offer.classes; colours = Object.values(offer.colours);
  parts = { expression: names.length > 0, affect: offer.valence_arousal, lanes: true };
  rows = new Rows(names);
  $("live-facts").classList.remove("error");
  $("save-rows").disabled = true;
  $("now-name").hidden = $("bars").hidden = !parts.expression;
  $("plane-part").hidden = !parts.affect;
  $("readout").classList.toggle("single", !(parts.expression && parts.affect));
  for (const key of document.querySelectorAll("#camera .of-affect")) key.hidden = !parts.affect;
  $("bars").replaceChildren(...names.flatMap((name, k) => {
    const fill = element("span", { className: "fill" });
    fill.style.background = colours[k].fill;
    return [element("span", { className: "class", textContent: name, title: name }), element("span", { className: "rail" }, fill), element("span", { className: "value" })];
  }));
  $("people").replaceChildren();
  draw();
}

function take(message) {
  rows.add(message.rows);
  faces = message.faces;
  rows.droppedPictures = message.dropped;
  delayS = session ? session.elapsedS - rows.latestS : delayS;
  $("save-rows").disabled = false;
  const subjects = rows.subjects;
  if (!subjects.includes(selected)) selected = present()[0] ?? subjects[0] ?? null;
}

const latest = subject => rows.of(subject).at(-1);
const present = () => rows.subjects.filter(s => latest(s).t > rows.latestS - AWAY_S);

function showFacts() {
  if (!session.isReady || !rows.lines.length) return;
  const facts = [mapping.clock(session.elapsedS, 0), `${delayS.toFixed(1)} s behind`];
  if (session.stream.getVideoTracks().length) facts.push(`${count(Math.round(session.pictureRate), "picture")}/s`);
  if (rows.droppedPictures) facts.push(`${rows.droppedPictures} left out`);
  $("live-facts").textContent = facts.join(" · ");
}

function draw() {
  if (!rows || $("stage").hidden || $("camera").hidden) return;
  showPeople();
  const own = rows.of(selected);
  readout(own.at(-1));
  trail(own);
  drawFaces();
  const to = Math.max(rows.latestS, SHOWN_S);
  drawChart($("chart"), { rows: own, names, colours, parts, shown: { from: to - SHOWN_S, to } });
}

function readout(row) {
  const known = Boolean(row) && row.named >= 0;
  $("expression").textContent = known ? names[row.named] : row ? "no expression" : "nobody yet";
  $("swatch").style.background = known ? colours[row.named].fill : "var(--line)";
  $("when").textContent = known ? `confidence ${percent(row.confidence)} · ${mapping.clock(row.t, 1)}` : "";
  $("face").classList.toggle("on", Boolean(row?.face)); $("voice").classList.toggle("on", Boolean(row?.voice));
  $("evidence").textContent = `evidence: ${row?.face && row.voice ? "both" : row?.face ? "face" : row?.voice ? "voice" : "none"}`;
  const cells = $("bars").children;
  names.forEach((_, k) => {
    const p = row?.p[k] ?? null, isBest = known && k === row.named;
    cells[3 * k].classList.toggle("best", isBest); cells[3 * k + 2].classList.toggle("best", isBest);
    cells[3 * k + 1].firstChild.style.width = percent(p ?? 0).replace(" ", "");
    cells[3 * k + 2].textContent = p === null ? "–" : percent(p);
  });
}

function trail(own) {
  const row = own.at(-1), of = (name, value) => (value === null || value === undefined ? `no ${name}` : `${name} ${signed(value)}`);
  $("va").textContent = `${of("valence", row?.valence)}\n${of("arousal", row?.arousal)}`;
  const recent = row ? own.filter(r => r.t >= row.t - TRAIL_S) : [];
  drawing.plane($("plane"), recent.map(r => (r.valence === null || r.arousal === null ? null : [r.valence, r.arousal, 0.5 * (1 - (row.t - r.t) / TRAIL_S)])));
}

// The buttons of several people.
function showPeople() {
  const subjects = rows.subjects, box = $("people"), shown = new Set(present());
  box.hidden = subjects.length < 2;
  if (String(subjects) !== box.dataset.subjects) {
    box.dataset.subjects = String(subjects);
    box.replaceChildren(...subjects.map(s => element("button", { type: "button", onclick: () => { selected = s; draw(); } },
      element("span", {}, element("b", { textContent: `Person ${s}` }), element("span")))));
  }
  subjects.forEach((s, k) => {
    const card = box.children[k], row = latest(s), known = row.named >= 0;
    card.setAttribute("aria-pressed", String(s === selected));
    card.classList.toggle("away", !shown.has(s));
    card.style.setProperty("--tint", known ? colours[row.named].fill : "var(--line)");
    card.firstChild.lastChild.textContent = !shown.has(s) ? "absent" : known ? names[row.named] : "no expression";
  });
}

// Boxes of the latest picture, over the video, which is mirrored like a mirror.
function drawFaces() {
  const video = $("video"), w = video.clientWidth, h = video.clientHeight;
  if (!w || !h) return;
  const c = drawing.prepare($("boxes"), w, h), sent = session?.canvas;
  if (!sent) return;
  const fit = mapping.fit(sent.width, sent.height, w, h);
  for (const [subject, [x1, y1, x2, y2]] of Object.entries(faces)) {
    const row = latest(Number(subject)), known = row && row.named >= 0;
    const left = isFront ? sent.width - x2 : x1, right = isFront ? sent.width - x1 : x2;
    const box = [fit.x + left * fit.scale, fit.y + y1 * fit.scale, fit.x + right * fit.scale, fit.y + y2 * fit.scale].map(Math.round);
    const text = known ? `${names[row.named]} ${percent(row.confidence)}` : "no expression";
    drawing.face(c, box, known ? colours[row.named].fill : "#c4c7cc", rows.subjects.length > 1 ? `${subject}  ${text}` : text);
  }
}
