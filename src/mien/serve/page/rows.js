// Rows of a timeline in memory: the last seconds of each person for a chart, and all of them as text to save.

// Seconds that the chart of a live session shows.
export const SHOWN_S = 30;
// Rows that can be saved: two hours at 15 pictures per second. The oldest are dropped.
const MOST = 108_000;

export class Rows {
  // classes: names of the expressions. keptS: seconds that are kept for charts. savedRows: rows that are kept to be saved.
  constructor(classes, { keptS = SHOWN_S + 1, savedRows = MOST } = {}) {
    this.classes = classes; this.keptS = keptS; this.savedRows = savedRows; this.people = new Map(); this.lines = []; this.latestS = 0;
  }

  get subjects() { return [...this.people.keys()].sort((a, b) => a - b); }
  of(subject) { return this.people.get(subject) ?? []; }

  add(rows) {
    for (const row of rows) {
      this.columns ??= Object.keys(row).filter(name => name.startsWith("p_"));  // in the order of the classes
      this.latestS = Math.max(this.latestS, row.time_s);
      if (!this.people.has(row.subject)) this.people.set(row.subject, []);
      this.people.get(row.subject).push({
        t: row.time_s, box: row.x1 === null ? null : [row.x1, row.y1, row.x2, row.y2],
        p: this.columns.map(name => row[name]), named: this.classes.indexOf(row.expression), confidence: row.confidence,
        valence: row.valence, arousal: row.arousal,
        face: row.evidence === "face" || row.evidence === "both", voice: row.evidence === "voice" || row.evidence === "both",
      });
      if (this.savedRows) this.lines.push(JSON.stringify(row) + "\n");
    }
    if (this.lines.length > this.savedRows) this.lines = this.lines.slice(-this.savedRows);
    for (const [subject, kept] of this.people) {
      const first = kept.findIndex(row => row.t >= this.latestS - this.keptS);
      if (first < 0) this.people.delete(subject); else kept.splice(0, first);
    }
  }
}
