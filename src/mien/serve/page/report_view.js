// The report of one job, in a frame that can run its own script and reach nothing else.

import { getJson } from "./api.js";
import { $ } from "./words.js";

let shown = "";

// A link to the report that works once.
const link = async id => (await getJson(`/v1/timelines/${id}/ticket`, { method: "POST" })).link;

// Show the report of a job. Throws a Refusal where it has none.
export async function showReport(id, name) {
  const address = await link(id);
  shown = id;
  $("report-title").textContent = `Report of ${name}`;
  $("report-frame").src = address;
  $("report").hidden = false; $("intro").hidden = true;
  $("report-title").focus({ preventScroll: true });
  $("report").scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function close() {
  shown = "";
  $("report-frame").src = "about:blank";
  $("report").hidden = true; $("intro").hidden = false;
  dispatchEvent(new Event("report-closed"));
}
// Close the report of a job that is deleted.
export function closeReportOf(id) { if (id && id === shown) close(); }

$("report-close").addEventListener("click", close);
$("report").addEventListener("keydown", event => { if (event.key === "Escape") close(); });
$("report-tab").addEventListener("click", async () => {
  try { open(await link(shown), "_blank", "noopener"); } catch (error) { $("report-title").textContent = error.text; }
});
