// The report of one job: while it runs, the rows so far; then the page of the report.

import { getJson } from "./api.js";
import { RowsSoFar } from "./so_far.js";
import { $, element } from "./words.js";

// Job that is shown, and the rows of the one that is followed, which is shown once it has some.
let shown = "", growing = null;
// Job whose report is on its way.
let awaited = "";
// Frame of the report, null for none.
let frame = null;

// A link to the report that works once.
const link = async id => (await getJson(`/v1/timelines/${id}/ticket`, { method: "POST" })).link;

// Show a report in a frame, which can run its own script and reach nothing else. Each gets a frame of its own: another
// address in the same one would be a step of the history, and Back would ask for reports whose links work once.
function putFrame(address) {
  removeFrame();
  frame = element("iframe", { id: "report-frame", title: "Report", sandbox: "allow-scripts allow-downloads allow-popups", referrerPolicy: "no-referrer", src: address });
  frame.classList.toggle("waiting", !$("so-far").hidden);  // the rows so far stay until it is loaded
  frame.addEventListener("load", event => { event.target.classList.remove("waiting"); $("so-far").hidden = true; });
  $("report").append(frame);
}
function removeFrame() { frame?.remove(); frame = null; }

function open(id, name, isGrowing) {
  const isNext = !isGrowing && shown === id && growing?.id === id;
  shown = id;
  $("report-title").textContent = isGrowing ? `${name} so far` : `Report of ${name}`;
  $("report").hidden = false; $("intro").hidden = true;
  $("report-tab").hidden = isGrowing;
  $("so-far").hidden = !(isGrowing || isNext);
  if (isGrowing) removeFrame(); else stopFollowing();
}

function goTo() {
  $("report-title").focus({ preventScroll: true });
  $("report").scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function stopFollowing() { growing?.stop(); growing = null; }

// Show the report of a job, unless it is closed or deleted or another one is opened meanwhile. isAsked: the user asked
// for it, so the page moves there. Throws a Refusal where it has none.
export async function showReport(id, name, isAsked = true) {
  awaited = id;
  const found = await link(id);
  if (awaited !== id) return;
  awaited = "";
  open(id, name, false);
  putFrame(found);
  if (isAsked) goTo();
}

// Show the rows of a job that runs. offer: its model. isAsked: the user asked for them; otherwise they are shown once
// there are some, if nothing else is.
export function showSoFar(id, name, offer, isAsked) {
  if (growing?.id !== id) {
    stopFollowing();
    growing = new RowsSoFar(id, offer, rows => {
      if (!shown) { open(id, name, true); dispatchEvent(new CustomEvent("report-shown", { detail: id })); }
      if (shown === id) rows.draw();
    });
  }
  if (!isAsked) return;
  awaited = "";
  open(id, name, true);
  growing.draw();
  goTo();
}

// Whether the rows of a job are shown, or are about to be.
export const isGrowing = id => growing?.id === id;
export const isShown = id => shown === id;
// Whether there is place for the rows of another job.
export const isFree = () => !shown && !growing;

function close() {
  shown = awaited = "";
  stopFollowing();
  removeFrame();
  $("report").hidden = true; $("intro").hidden = false;
  dispatchEvent(new Event("report-closed"));
}
// Close the report of a job that is deleted.
export function closeReportOf(id) {
  if (id === awaited) awaited = "";
  if (id && id === shown) close();
  else if (isGrowing(id)) stopFollowing();
}

// The server has deleted a job: its report stays as long as it is open, and cannot be opened again.
export function keepWhatIsOpen(id) {
  if (id === shown) $("report-tab").hidden = true;
}

$("report-close").addEventListener("click", close);
$("report").addEventListener("keydown", event => { if (event.key === "Escape") close(); });
$("report-tab").addEventListener("click", async () => {
  try { window.open(await link(shown), "_blank", "noopener"); } catch (error) { $("report-title").textContent = error.text; }
});
addEventListener("resize", () => { if (growing && shown === growing.id) growing.draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => requestAnimationFrame(() => { if (growing && shown === growing.id) growing.draw(); }));
