// The list of recordings: upload, progress, results.

import { call, getJson, save, sentences, upload } from "./api.js";
import { closeReportOf, isFree, isGrowing, isShown, keepWhatIsOpen, showReport, showSoFar } from "./report_view.js";
import { $, announce, count, element, percent, size, timeOfDay } from "./words.js";

// Milliseconds between two questions for the state of the jobs: while some run, and else.
const ACTIVE_MS = 500, IDLE_MS = 5000;
const items = [];
const deleted = new Set();  // jobs that an answer on its way may still name
let server, onTrouble, isUploading = false, timer = 0;

// Connect the controls. server: the answer of /v1/models. onTrouble: called with an error of the connection, or null.
export function start(offer, trouble) {
  server = offer; onTrouble = trouble;
  const drop = $("drop"), chooser = $("chooser");
  chooser.addEventListener("change", () => { add([...chooser.files]); chooser.value = ""; });
  let depth = 0;
  const mark = () => drop.classList.toggle("over", depth > 0);
  const hasFiles = event => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", event => { if (hasFiles(event)) { depth++; mark(); } });
  addEventListener("dragleave", event => { if (hasFiles(event)) { depth = Math.max(0, depth - 1); mark(); } });
  addEventListener("dragover", event => { if (hasFiles(event)) event.preventDefault(); });
  addEventListener("drop", event => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0; mark();
    $("tab-files").click();
    add([...event.dataTransfer.files]);
  });
  addEventListener("beforeunload", event => { if (items.some(i => i.state === "uploading" || i.state === "waiting")) event.preventDefault(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  refresh();
}

// --- uploads, one at a time ----------------------------------------------------------------------------------

function add(files) {
  const query = options();
  if (!query) return;
  for (const file of files) {
    const item = { file, query, name: file.name, size: file.size, state: "waiting", sent: 0, abort: new AbortController() };
    if (!file.size) fail(item, "The file is empty", "Choose a video, a sound or a picture");
    else if (file.size > server.limits.upload_bytes) {
      fail(item, `The file has ${size(file.size)}, and this server takes ${size(server.limits.upload_bytes)}`, "Cut it into parts, or start the server with a larger --max-upload");
    }
    insert(item);
  }
  sendNext();
}

function options() {
  const face = $("use-face").checked, voice = $("use-voice").checked, faces = $("max-faces");
  const problem = !(face || voice) ? "Choose faces, voice or both: without them there is nothing to predict from."
    : faces.checkValidity() && faces.value ? "" : "People at once must be a number from 1 to 64.";
  $("options-error").textContent = problem;
  if (problem) { document.querySelector(".options").open = true; return ""; }
  return new URLSearchParams({ model: $("model").value, max_faces: faces.value, face, voice, report: $("with-recording").checked }).toString();
}

async function sendNext() {
  if (isUploading) return;
  const item = items.findLast(i => i.state === "waiting");  // the list shows the newest first
  if (!item) return;
  isUploading = true;
  item.state = "uploading"; update(item);
  try {
    const job = await upload(item.file, item.query, (sent, isAll) => { item.sent = sent; item.isSent = isAll; update(item); }, item.abort.signal);
    Object.assign(item, { id: job.id, file: null, job, state: job.state, isOwn: true });
    if (item.isCancelled) await discard(item); else follow(item);
  } catch (error) {
    if (error.name === "AbortError" || item.isCancelled) remove(item);
    else if (error.status === 429) {
      item.state = "waiting";
      item.pause = `The queue of the server is full. It is sent again in ${count(error.retryAfter || 5, "second")}.`;
      update(item);
      await new Promise(resolve => setTimeout(resolve, 1000 * (error.retryAfter || 5)));
      item.pause = "";
    } else {
      fail(item, error.what, error.follows, error.remedy);
      if (error.status === 401) onTrouble(error);
    }
  }
  isUploading = false;
  if (items.includes(item)) update(item);
  refresh();
  sendNext();
}

function fail(item, ...texts) { item.state = "failed"; item.file = null; item.problem = sentences(...texts); }

// --- state of the jobs -------------------------------------------------------------------------------------------

async function refresh() {
  clearTimeout(timer);
  try {
    const asked = items.filter(i => i.id);
    merge((await getJson("/v1/timelines")).timelines, asked);
    onTrouble(null);
    for (const item of items) if (item.isUnanswered) { item.note = ""; item.isUnanswered = false; update(item); }
  } catch (error) { onTrouble(error); }
  clearTimeout(timer);
  const isActive = items.some(i => i.state === "queued" || i.state === "running");
  timer = setTimeout(refresh, isActive && !document.hidden ? ACTIVE_MS : IDLE_MS);
}

// Show the rows of a recording of this tab while it is predicted, if nothing else is shown; then its report.
function follow(item) {
  if (item.isLeaving) return;
  if (item.state === "running") {
    if (item.isOwn && !item.wasClosed && isFree()) showSoFar(item.id, item.name, offerOf(item), false);
  } else if (isGrowing(item.id)) {
    const wasShown = isShown(item.id);
    if (item.state === "done" && item.job.rows && wasShown) view(item, false);
    else if (item.state !== "queued") closeReportOf(item.id);
    items.filter(i => i.state === "running").forEach(follow);
  }
}

const offerOf = item => server.models.find(model => model.name === item.job.options.model) ?? server.models[0];

// asked: the items that the server knew when it was asked.
function merge(jobs, asked) {
  const known = new Map(items.filter(i => i.id).map(i => [i.id, i])), present = new Set(jobs.map(job => job.id));
  for (const job of [...jobs].reverse()) {
    const item = known.get(job.id);
    if (item?.isLeaving) continue;
    if (item) {
      const before = item.state;
      item.job = job; item.state = job.state;
      if (job.state === "failed") item.problem = sentences(job.reason.what, job.reason.follows, job.reason.remedy);
      update(item);
      if (before !== job.state) follow(item);
      if (before !== job.state && (job.state === "done" || job.state === "failed")) announce(`${item.name}: ${job.state === "done" ? "done" : item.problem}`);
    } else if (!isUploading && !deleted.has(job.id)) {  // while one is sent, a new job may be that
      insert({ id: job.id, name: `Recording of ${timeOfDay(new Date(job.created))}`, size: job.size, job, state: job.state,
        problem: job.reason && sentences(job.reason.what, job.reason.follows, job.reason.remedy) });
    }
  }
  for (const item of asked) {
    if (present.has(item.id) || item.state === "gone" || item.isLeaving) continue;
    item.state = "gone";
    if (isGrowing(item.id)) closeReportOf(item.id); else keepWhatIsOpen(item.id);
    update(item);
  }
}

// --- the list ---------------------------------------------------------------------------------------------------

function insert(item) {
  const name = element("b", { textContent: item.name, title: item.name }), facts = element("span", { className: "facts" });
  const bar = element("progress", { max: 1, "aria-label": `Progress of ${item.name}` });
  const text = element("p", { className: "state" });
  const open = element("button", { type: "button", className: "open", onclick: () => view(item) });
  const format = element("select", { "aria-label": `Format to save ${item.name} in` }, ...server.formats.map(f => element("option", { textContent: f })));
  const store = element("button", { type: "button", textContent: "Save", "aria-label": `Save the table of ${item.name}`, onclick: () => download(item, format.value) });
  const drop = element("button", { type: "button", className: "drop-item", onclick: () => discard(item) });
  const tools = element("div", { className: "row" }, open, element("span", { className: "joined" }, format, store), drop);
  item.parts = { facts, bar, text, open, results: format.parentNode, drop };
  item.node = element("li", {}, element("div", { className: "head" }, name, facts), bar, text, tools);
  items.unshift(item);
  $("list").prepend(item.node);
  update(item);
}

const WORDS = {
  waiting: item => [item.pause || "Waits for the upload of the others.", 0],
  uploading: item => [item.isCancelled ? "Cancelling …" : item.sent < item.size ? `Uploading, ${percent(item.sent / item.size)}` : "Uploaded. The server stores it.", item.sent / item.size],
  queued: item => [item.job.before ? `In the queue, ${item.job.before} before it` : "In the queue, next", null],
  running: item => [item.job.progress ? `Predicting, ${percent(item.job.progress)}` : "Predicting", item.job.progress || null],
  done: item => [`${found(item.job)}. Kept until ${timeOfDay(new Date(item.job.deleted_at))}.`, -1],
  failed: item => [item.problem, -1],
  gone: () => ["The server has deleted the results.", -1],
};

function found(job) {
  const kind = job.media?.kind, people = kind === "audio" ? "A voice" : count(job.subjects.length, "person");
  return job.rows ? `${people}, ${count(job.rows, "row")}` : "Nobody was seen or heard";
}

function update(item) {
  const { facts, bar, text, open, results, drop } = item.parts, [state, share] = WORDS[item.state](item);
  const words = item.note ? `${item.note} ${state}` : state;
  item.node.dataset.state = item.state;
  const media = item.job?.media ?? {};
  facts.textContent = [size(item.size), media.duration_s && item.state === "done" ? mapping.clock(media.duration_s, 1) : ""].filter(Boolean).join(" · ");
  if (text.textContent !== words) text.textContent = words;
  bar.hidden = share === -1;
  if (share === null) bar.removeAttribute("value"); else bar.value = Math.max(0, share);
  results.hidden = item.state !== "done" || !item.job.rows;
  open.hidden = results.hidden && item.state !== "running";
  open.textContent = item.state === "running" ? "So far" : "Report";
  open.setAttribute("aria-label", item.state === "running" ? `Rows of ${item.name} so far` : `Report of ${item.name}`);
  const isOver = ["done", "failed", "gone"].includes(item.state);
  drop.textContent = item.state === "gone" || (isOver && !item.id) ? "Remove" : isOver ? "Delete" : "Cancel";
  drop.setAttribute("aria-label", `${drop.textContent} ${item.name}`);
  open.setAttribute("aria-pressed", String(isShown(item.id) && !open.hidden));
  $("list-card").hidden = !items.length;
}

function remove(item) {
  const place = items.indexOf(item), hadFocus = item.node.contains(document.activeElement);
  if (place < 0) return;
  items.splice(place, 1);
  item.node.remove();
  $("list-card").hidden = !items.length;
  closeReportOf(item.id);
  if (hadFocus) (items[place] ?? items.at(-1))?.parts.drop.focus();
  if (hadFocus && !items.length) $("chooser").focus();
}

// --- what the buttons do ------------------------------------------------------------------------------------------

async function discard(item) {
  if (item.isLeaving) return;
  if (item.state === "uploading") {
    // What was sent as a whole may be a job by now: it is deleted once the server has named it.
    if (item.isSent) { item.isCancelled = true; update(item); } else item.abort.abort();
    return;
  }
  if (item.id && item.state !== "gone") {
    closeReportOf(item.id);  // it asks for rows
    item.isLeaving = true;  // nothing is asked of it any more
    try { await call(`/v1/timelines/${item.id}`, { method: "DELETE" }); } catch (error) {
      if (error.status !== 404) { item.isLeaving = false; note(item, error); return; }
    }
    deleted.add(item.id);
  }
  remove(item);
  items.forEach(follow);
  announce(`${item.name} is deleted.`);
}

async function view(item, isAsked = true) {
  if (item.isLeaving) return;
  try {
    if (item.state === "running") showSoFar(item.id, item.name, offerOf(item), isAsked);
    else await showReport(item.id, item.name, isAsked);
    items.forEach(update);
  } catch (error) { note(item, error); }
}

async function download(item, format) {
  if (item.isLeaving) return;
  try {
    const answer = await call(`/v1/timelines/${item.id}/timeline.${format}`);
    save(await answer.blob(), `${item.name.replace(/\.[^.]*$/, "").replace(/[/:]/g, ".")}.${format}`);
    item.note = ""; update(item);
  } catch (error) { note(item, error); }
}

function note(item, error) {
  if (!items.includes(item)) return;
  item.note = error.text ?? String(error);
  item.isUnanswered = error.status === 0;
  update(item);
  announce(item.note);
}

addEventListener("report-shown", () => items.forEach(update));
addEventListener("report-closed", () => {
  for (const item of items) { item.wasClosed ||= item.state === "running"; update(item); }
});
