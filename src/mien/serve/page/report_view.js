// The report of one job: while it runs, the rows so far; then the page of the report, in a frame that can run its own
// script and reach nothing else.

import { getJson } from "./api.js";
import { RowsSoFar } from "./so_far.js";
import { $ } from "./words.js";

// Job that is shown, and the rows of the one that is followed, which is shown once it has some.
let shown = "", growing = null;
// Job whose report is on its way.
let awaited = "";

// A link to the report that works once.
const link = async id => (await getJson(`/v1/timelines/${id}/ticket`, { method: "POST" })).link;

function open(id, name, isGrowing) {
  const isNext = !isGrowing && shown === id && growing?.id === id;
  shown = id;
  $("report-title").textContent = isGrowing ? `${name} so far` : `Report of ${name}`;
  $("report").hidden = false; $("intro").hidden = true;
  $("report-frame").hidden = $("report-tab").hidden = isGrowing;
  $("report-frame").classList.toggle("waiting", isNext);  // the rows so far stay until it is loaded
  $("so-far").hidden = !(isGrowing || isNext);
  if (isGrowing) $("report-frame").src = "about:blank"; else stopFollowing();
}

// The report is loaded: it takes the place of the rows so far.
$("report-frame").addEventListener("load", () => {
  if ($("report-frame").hidden || $("report-frame").src === "about:blank") return;
  $("report-frame").classList.remove("waiting");
  $("so-far").hidden = true;
});

function goTo() {
  $("report-title").focus({ preventScroll: true });
  $("report").scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function stopFollowing() { growing?.stop(); growing = null; }

// Show the report of a job, unless it is closed or deleted or another one is opened meanwhile. isAsked: the user asked
// for it, so the page moves there. Throws a Refusal where it has none.
export async function showReport(id, name, isAsked = true) {
  awaited = id;
  const address = await link(id);
  if (awaited !== id) return;
  awaited = "";
  open(id, name, false);
  $("report-frame").src = address;
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
  $("report-frame").src = "about:blank";
  $("report").hidden = true; $("intro").hidden = false;
  dispatchEvent(new Event("report-closed"));
}
// Close the report of a job that is deleted.
export function closeReportOf(id) {
  if (id === awaited) awaited = "";
  if (id && id === shown) close();
  else if (isGrowing(id)) stopFollowing();
}

$("report-close").addEventListener("click", close);
$("report").addEventListener("keydown", event => { if (event.key === "Escape") close(); });
$("report-tab").addEventListener("click", async () => {
  try { window.open(await link(shown), "_blank", "noopener"); } catch (error) { $("report-title").textContent = error.text; }
});
addEventListener("resize", () => { if (growing && shown === growing.id) growing.draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => requestAnimationFrame(() => { if (growing && shown === growing.id) growing.draw(); }));
