// Chart of one person: the bands of the report, for rows that arrive.

const RIBBON = 24, GAP = 12, CURVES = 110, STRIP = 12, AXIS = 22, MIN_GUTTER = 92, MAX_GUTTER = 150;
const LABEL = "12.5px system-ui, sans-serif", SMALL = "11px system-ui, sans-serif";
// A row lasts until the next one, and at most so many seconds.
const LONGEST_S = 2.5;

// Rows that follow each other within so many pixels are drawn as one.
const LEAST_PIXELS = 0.5;

// Draw the chart. rows: of `Rows`, oldest first. colours: of each class. parts: what the model predicts (expression,
// affect) and whether each class has a lane (lanes). shown: the first and the last second.
export function drawChart(canvas, { rows, names, colours, parts, shown: view }) {
  const width = canvas.parentElement.clientWidth;
  if (!width) return;
  const lane = mapping.clamp(Math.floor(256 / Math.max(1, names.length)), 20, 44);
  const lanes = parts.expression ? RIBBON + GAP + (parts.lanes ? lane * names.length + GAP : 0) : 0;
  const height = 6 + lanes + (parts.affect ? CURVES + GAP : 0) + 2 * STRIP + 2 + AXIS;
  const c = drawing.prepare(canvas, width, height), colour = drawing.colour;
  c.font = LABEL;
  const gutter = mapping.clamp(Math.ceil(Math.max(0, ...names.map(n => c.measureText(n).width))) + 24, MIN_GUTTER, width < 480 ? MIN_GUTTER : MAX_GUTTER);
  const w = width - gutter, least = mapping.toTime(LEAST_PIXELS, view, w) - view.from;
  const drawn = [];
  for (const row of rows) if (!drawn.length || row.t >= drawn.at(-1).t + least) drawn.push(row);
  const spans = drawn.map((row, i) => {
    const end = Math.min(drawn[i + 1]?.t ?? row.t + 0.1, row.t + LONGEST_S);
    const a = Math.max(0, mapping.toPixel(row.t, view, w)), b = mapping.toPixel(end, view, w);
    return b > 0 ? [gutter + a, Math.max(0.7, b - a), row] : null;
  }).filter(Boolean);

  c.fillStyle = colour("grid");
  const ticks = mapping.ticks(view, w, 84);
  for (const t of ticks.at) c.fillRect(Math.round(gutter + mapping.toPixel(t, view, w)), 0, 1, height - AXIS);

  const label = (text, y, isBold, tint) => {
    let x = 0;
    if (tint) { c.fillStyle = tint; c.fillRect(0, y - 5, 9, 10); x = 15; }
    c.font = isBold ? `650 ${LABEL}` : LABEL; c.textAlign = "left"; c.textBaseline = "middle"; c.fillStyle = colour(isBold ? "ink" : "soft");
    while (text.length > 2 && c.measureText(text).width > gutter - x - 6) text = text.slice(0, -2) + "…";
    c.fillText(text, x, y);
  };
  // Stretches of neighbouring rows with the same value: [x, width, value].
  const stretches = value => {
    const out = [];
    for (const [x, wide, row] of spans) {
      const last = out.at(-1), found = value(row);
      if (last && last[2] === found && x - last[0] - last[1] < 1.5) last[1] = x + wide - last[0]; else out.push([x, wide, found]);
    }
    return out;
  };
  const missing = (y, h, isMissing) => { for (const [x, wide, is] of stretches(isMissing)) if (is) drawing.hatch(c, x, y, wide, h); };

  let y = 6;
  if (parts.expression) {
    label("Expression", y + RIBBON / 2, true);
    for (const [x, wide, named] of stretches(row => row.named)) {
      if (named < 0) { drawing.hatch(c, x, y, wide, RIBBON); continue; }
      c.fillStyle = colours[named].fill; c.fillRect(x, y, wide + 0.5, RIBBON);
      c.font = "600 11.5px system-ui, sans-serif"; c.textAlign = "left"; c.textBaseline = "middle"; c.fillStyle = colours[named].text;
      if (c.measureText(names[named]).width + 12 < wide) c.fillText(names[named], x + 6, y + RIBBON / 2 + 0.5);
    }
    y += RIBBON + GAP;
    if (parts.lanes) names.forEach((name, k) => {
      label(name, y + lane / 2 + 3, false, colours[k].fill);
      c.fillStyle = colour("grid"); c.fillRect(gutter, y + lane - 1, w, 1);
      c.fillStyle = colours[k].fill;
      for (const [x, wide, row] of spans) if (row.p[k] !== null) { const h = row.p[k] * (lane - 5); c.fillRect(x, y + lane - 1 - h, wide + 0.4, h); }
      y += lane;
    });
    if (parts.lanes) y += GAP;
  }
  if (parts.affect) {
    const middle = y + CURVES / 2, room = CURVES / 2 - 4;
    label("Valence", y + 22, false); label("Arousal", y + 42, false);
    for (const v of [-1, -0.5, 0, 0.5, 1]) {
      const at = Math.round(middle - v * room) + 0.5;
      c.strokeStyle = colour(v === 0 ? "line" : "grid"); c.lineWidth = 1; c.beginPath(); c.moveTo(gutter, at); c.lineTo(gutter + w, at); c.stroke();
      c.font = SMALL; c.textAlign = "right"; c.fillStyle = colour("soft");
      if (v % 1 === 0) c.fillText(v > 0 ? "+1" : v < 0 ? "−1" : "0", gutter - 8, at);
    }
    missing(y + 4, CURVES - 8, row => row.valence === null && row.arousal === null);
    [["valence", []], ["arousal", [6, 4]]].forEach(([name, dash]) => {
      c.strokeStyle = colour(name); c.lineWidth = 2; c.lineJoin = "round"; c.setLineDash(dash); c.beginPath();
      let last = -Infinity;
      for (const [x, , row] of spans) {
        if (row[name] === null) { last = -Infinity; continue; }
        if (row.t - last > LONGEST_S) c.moveTo(x, middle - row[name] * room); else c.lineTo(x, middle - row[name] * room);
        last = row.t;
      }
      c.stroke(); c.setLineDash([]);
    });
    y += CURVES + GAP;
  }
  label("Evidence", y + STRIP, true);
  for (const kind of ["face", "voice"]) {
    c.fillStyle = colour("grid"); c.fillRect(gutter, y, w, STRIP);
    c.fillStyle = colour(kind);
    for (const [x, wide, is] of stretches(row => row[kind])) if (is) c.fillRect(x, y, wide, STRIP);
    y += STRIP + 2;
  }
  c.font = SMALL; c.textBaseline = "top"; c.textAlign = "center"; c.fillStyle = colour("soft");
  for (const t of ticks.at) {
    const text = mapping.clock(t, 0), half = c.measureText(text).width / 2;
    if (t >= 0) c.fillText(text, mapping.clamp(gutter + mapping.toPixel(t, view, w), gutter + half, width - half), y + 5);
  }
}
