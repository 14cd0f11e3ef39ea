// The report of a job as it grows: the rows that the server has found so far, a chart for each person.

import { getJson } from "./api.js";
import { drawChart } from "./chart.js";
import { Rows } from "./rows.js";
import { $, element, people } from "./words.js";

// Shortest span of the charts, longest wait of the server for more rows, and pauses: between two answers, and after an error.
const LEAST_S = 30, WAIT_S = 20, PAUSE_MS = 200, AGAIN_MS = 2000;

export class RowsSoFar {
  // id: of the job. offer: its model, as /v1/models describes it. onRows: called when there are more rows.
  constructor(id, offer, onRows) {
    this.id = id; this.names = offer.classes; this.colours = Object.values(offer.colours); this.onRows = onRows;
    this.parts = { expression: offer.classes.length > 0, affect: offer.valence_arousal };
    this.isOver = false; this.abort = new AbortController();
    this.clear();
    this.follow();
  }

  clear() { this.rows = new Rows(this.names, { keptS: Infinity, savedRows: 0 }); this.after = 0; }
  stop() { this.isOver = true; this.abort.abort(); }
  get isEmpty() { return !this.rows.subjects.length; }

  async follow() {
    let run = "";
    while (!this.isOver) {
      let pause = PAUSE_MS;
      try {
        const answer = await getJson(`/v1/timelines/${this.id}/rows?after=${this.after}&run=${run}&wait=${WAIT_S}`, { signal: this.abort.signal });
        if (this.isOver || answer.final || answer.last) return;  // the report shows the rest
        if (!answer.first && this.after) this.clear();  // the job was started again
        ({ next: this.after, run } = answer);
        this.rows.add(answer.rows);
        if (answer.rows.length) this.onRows(this);
      } catch (error) {
        if (error.status === 404) return;  // deleted
        pause = AGAIN_MS;
      }
      await new Promise(resolve => setTimeout(resolve, pause));
    }
  }

  // Show the rows in the elements of the page.
  draw() {
    const subjects = this.rows.subjects, box = $("so-far-people");
    $("so-far-facts").textContent = this.isEmpty
      ? "Nothing yet. Rows of a video come a few seconds after its start, those of a sound at the end."
      : `${people(subjects.length)} so far, up to ${mapping.clock(this.rows.latestS, 0)}. Preliminary: the report at the end replaces it.`;
    if (box.dataset.shown !== `${this.id} ${subjects}`) {
      box.dataset.shown = `${this.id} ${subjects}`;
      box.replaceChildren(...subjects.map(s => element("section", { "aria-label": `Subject ${s}` },
        element("h3", { textContent: `Subject ${s}`, hidden: subjects.length < 2 }),
        element("div", { className: "plot" }, element("canvas", { role: "img", "aria-label": `Chart of subject ${s} so far` })))));
      for (const key of document.querySelectorAll("#so-far .of-affect")) key.hidden = !this.parts.affect;
    }
    const shown = { from: 0, to: Math.max(LEAST_S, this.rows.latestS) }, parts = { ...this.parts, lanes: subjects.length === 1 };
    subjects.forEach((s, k) => drawChart(box.children[k].querySelector("canvas"), { rows: this.rows.of(s), names: this.names, colours: this.colours, parts, shown }));
  }
}
