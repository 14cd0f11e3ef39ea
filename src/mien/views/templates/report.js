"use strict";
(() => {
  const $ = id => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const names = data.expressions.map(e => e.name), NONE = 255, K = names.length;
  const subjects = data.subjects.map(s => ({
    id: s.id, n: s.n,
    times: mapping.decode(s.times, Float32Array), frames: mapping.decode(s.frames, Int32Array),
    p: mapping.decode(s.p, Uint8Array), named: mapping.decode(s.named, Uint8Array),
    va: mapping.decode(s.va, Int8Array), evidence: mapping.decode(s.evidence, Uint8Array),
    boxes: mapping.decode(s.boxes, Uint16Array),
  }));
  const still = data.kind === "image", end = Math.max(data.duration, 1e-3);
  const state = { subject: 0, t: subjects[0].times[0] ?? 0, view: { from: 0, to: end } };
  const player = $("player"), plot = $("plot"), chart = $("chart");
  const current = () => subjects[state.subject];
  const hasFace = (s, i) => (s.evidence[i] & 2) > 0, hasVoice = (s, i) => (s.evidence[i] & 1) > 0;
  const isSpeaking = (s, i) => (s.evidence[i] & 4) > 0, maySpeak = (s, i) => (s.evidence[i] & 12) > 0;
  const isAbsent = (s, i) => s.named[i] === NONE && !hasValence(s, i) && !hasFace(s, i);
  const MISSING = -128, AXES = ["valence", "arousal"], hasAxis = (s, i, k) => s.va[i * 2 + k] !== MISSING;
  const hasValence = (s, i) => hasAxis(s, i, 0) || hasAxis(s, i, 1), hasPoint = (s, i) => hasAxis(s, i, 0) && hasAxis(s, i, 1);
  const colour = drawing.colour;
  const hasParts = { expression: data.parts.expression, affect: data.parts.valence_arousal };
  const faces = JSON.parse($("thumbnails").textContent), several = subjects.length > 1;
  const wave = mapping.decode(data.wave, Uint8Array);
  const signed = v => (v < 0 ? "−" : "+") + Math.abs(v).toFixed(2);

  // --- embedded recording: base64 in pieces, so that no string holds all of it ------------------------------
  const pieces = [...document.querySelectorAll("script.media")];
  if (pieces.length && player) {
    const parts = pieces.map(piece => { const bytes = mapping.decode(piece.textContent.trim(), Uint8Array); piece.remove(); return bytes; });
    player.src = URL.createObjectURL(new Blob(parts, { type: data.media.type }));
  }
  const chooser = $("chooser");
  if (chooser) chooser.addEventListener("change", () => {
    if (!chooser.files.length) return;
    player.src = URL.createObjectURL(chooser.files[0]);
    player.hidden = false; $("absent").hidden = true;
    if ($("controls")) $("controls").hidden = false;
    player.addEventListener("loadedmetadata", () => show(state.t, true), { once: true });
  });

  // --- current time: cursor, read-out and boxes ---------------------------------------------------------------------------
  function show(t, seek) {
    state.t = mapping.clamp(t, 0, end);
    if (seek && player && !still && player.readyState > 0) player.currentTime = Math.max(0, state.t + 1e-3);
    if (!still) {
      const view = mapping.follow(state.view, state.t, end);
      if (view !== state.view) { state.view = view; draw(); }
      moveNeedle();
    }
    updateReadout(); updatePeople(); updateControls(); drawBoxes();
  }
  function moveNeedle() {
    const x = gutter + mapping.toPixel(state.t, state.view, chart.clientWidth - gutter);
    $("needle").style.left = x + "px";
    const side = $("needle").firstChild;
    side.style.transform = x > chart.clientWidth - 30 ? "translateX(-100%)" : "translateX(-50%)";
    $("needle").firstChild.textContent = mapping.clock(state.t, 2);
    const i = mapping.locate(current().times, state.t), e = current().named[i];
    plot.setAttribute("aria-valuenow", state.t.toFixed(3));
    plot.setAttribute("aria-valuetext", mapping.clock(state.t, 1) + ", " + estimate(current(), i));
  }
  // A row in words: the expression, or valence and arousal where the timeline has no expressions.
  function estimate(s, i) {
    if (hasParts.expression) return s.named[i] === NONE ? "no expression" : names[s.named[i]];
    return hasValence(s, i) ? affect(s, i).join(", ") : "no valence, no arousal";
  }
  // The values that a row has, in words; one that is missing is left out.
  function affect(s, i) { return AXES.map((name, k) => hasAxis(s, i, k) && `${name} ${signed(s.va[i * 2 + k] / 127)}`).filter(Boolean); }
  function updateReadout() {
    const s = current(), i = mapping.locate(s.times, state.t), e = s.named[i], frame = s.frames[i];
    const face = hasFace(s, i), voice = hasVoice(s, i), known = e !== NONE;
    if (hasParts.expression) {
      $("expression").textContent = known ? names[e] : "no expression";
      $("swatch").style.background = known ? data.expressions[e].colour : colour("line");
      [...$("bars").children].forEach((cell, k) => {
        const c = Math.floor(k / 3), p = known ? s.p[i * K + c] / 255 : 0;
        cell.classList.toggle("best", c === e);
        if (k % 3 === 1) cell.firstChild.style.width = p * 100 + "%";
        if (k % 3 === 2) cell.textContent = known ? Math.round(p * 100) + " %" : "–";
      });
    }
    $("when").textContent = [known ? "confidence " + Math.round(s.p[i * K + e] / 2.55) + " %" : null, still ? null : mapping.clock(s.times[i], 2),
      frame < 0 || still ? null : "frame " + frame].filter(Boolean).join(" · ");
    $("face").classList.toggle("on", face); $("voice").classList.toggle("on", voice);
    $("speaks").classList.toggle("on", isSpeaking(s, i)); $("speaks").hidden = !several;
    $("evidence").textContent = face && voice ? "evidence: both" : face ? "evidence: face" : voice ? "evidence: voice" : "evidence: none";
    if (hasParts.affect) drawPlane(s, i);
  }
  // The cards of all people: who is there now, with what expression, and who speaks.
  function updatePeople() {
    if (!several) return;
    [...$("subjects").children].forEach((card, k) => {
      const s = subjects[k], i = mapping.locate(s.times, state.t), e = s.named[i];
      card.classList.toggle("away", isAbsent(s, i)); card.classList.toggle("speaking", isSpeaking(s, i));
      card.lastChild.lastChild.textContent = isAbsent(s, i) ? "absent" : estimate(s, i);
      card.style.setProperty("--tint", e === NONE ? colour("line") : data.expressions[e].colour);
    });
  }
  function updateControls() {
    if (!$("controls")) return;
    $("seek").value = state.t;
    $("time").textContent = mapping.clock(state.t, 1) + " / " + mapping.clock(end, 1);
  }
  function drawPlane(s, i) {
    $("va").textContent = hasValence(s, i) ? affect(s, i).join("\n") : "no valence\nno arousal";
    // The last two seconds as a fading trail.
    const trail = [];
    for (let k = mapping.locate(s.times, s.times[i] - 2); k <= i; k++) {
      trail.push(hasPoint(s, k) ? [s.va[k * 2] / 127, s.va[k * 2 + 1] / 127, 0.5 * (1 - (s.times[i] - s.times[k]) / 2)] : null);
    }
    drawing.plane($("plane"), trail);
  }

  // --- boxes over the image ---------------------------------------------------------------------------------
  const hits = [];
  function drawBoxes() {
    const canvas = $("boxes");
    if (!canvas || !player || player.hidden) return;
    const w = player.clientWidth, h = player.clientHeight, c = drawing.prepare(canvas, w, h);
    const fit = mapping.fit(data.width, data.height, w, h);
    hits.length = 0;
    const order = subjects.map((_, k) => k).sort((a, b) => (a === state.subject) - (b === state.subject));
    for (const k of order) {
      const s = subjects[k], i = mapping.locate(s.times, state.t);
      if (!hasFace(s, i)) continue;
      const unit = (v, side) => v / 65535 * side * fit.scale;
      const corner = k => Math.round(k % 2 ? fit.y + unit(s.boxes[i * 4 + k], data.height) : fit.x + unit(s.boxes[i * 4 + k], data.width));
      const [x, y, x2, y2] = [0, 1, 2, 3].map(corner);
      hits.push({ k, x, y, x2, y2 });
      const e = s.named[i], plain = !hasParts.expression && hasValence(s, i) ? "#8f86f0" : "#c4c7cc";
      const tint = e === NONE ? plain : data.expressions[e].colour;
      c.globalAlpha = k === state.subject ? 1 : 0.55;
      // In a crowd only the selected person has a full label; the others their number.
      const number = several ? String(s.id) : "", full = x2 - x > 90 || k === state.subject || !several;
      const text = full ? (number ? number + "  " : "") + estimate(s, i) : number;
      drawing.face(c, [x, y, x2, y2], tint, text);
    }
    c.globalAlpha = 1;
  }

  // --- the chart ----------------------------------------------------------------------------------------------
  // The left column grows with the longest class name; lanes share the height of eight, within limits.
  const LABEL = "12.5px system-ui, sans-serif", MIN_GUTTER = 104, MAX_GUTTER = innerWidth < 700 ? 120 : 200;
  const gutter = mapping.clamp(Math.ceil(longest(hasParts.expression ? names : [])) + 27, MIN_GUTTER, MAX_GUTTER);
  const RIBBON = several ? (subjects.length > 8 ? 16 : 26) : 24, ROW_GAP = subjects.length > 8 ? 3 : 7, SPEECH = several ? 4 : 0, WAVE = wave.length ? 40 : 0;
  const ROW = RIBBON + SPEECH + ROW_GAP, PEOPLE = ROW * subjects.length;
  const CURVES = hasParts.expression ? 132 : 220, STRIP = data.kind === "audio" ? 13 : 26, AXIS = 22, GAP = 12, LANE = mapping.clamp(Math.floor(256 / K), 20, 44);
  const TOP = hasParts.expression ? 0 : 6;  // room for the half of "+1" above the curves
  const height = TOP + PEOPLE + GAP + (WAVE ? WAVE + GAP : 0) + (hasParts.expression ? LANE * K + GAP : 0) + (hasParts.affect ? CURVES + GAP : 0) + STRIP + AXIS + 8;
  function longest(texts) {
    const c = document.createElement("canvas").getContext("2d");
    c.font = LABEL;
    return Math.max(0, ...texts.map(text => c.measureText(text).width));
  }
  // The text, cut with an ellipsis where it is wider than `room` pixels.
  function shorten(c, text, room) {
    if (c.measureText(text).width <= room) return text;
    let cut = [...text];
    while (cut.length && c.measureText(cut.join("") + "…").width > room) cut = cut.slice(0, -1);
    return cut.join("").trimEnd() + "…";
  }
  const pictures = {};
  for (const [id, url] of Object.entries(faces)) { const image = new Image(); image.onload = () => { if (!still) draw(); }; image.src = url; pictures[id] = image; }
  function draw() {
    const ratio = devicePixelRatio || 1, width = plot.clientWidth, c = chart.getContext("2d");
    chart.width = Math.round(width * ratio); chart.height = Math.round(height * ratio); chart.style.height = height + "px";
    c.setTransform(ratio, 0, 0, ratio, 0, 0); c.clearRect(0, 0, width, height);
    const w = width - gutter, all = subjects.map(s => bin(s, w)), columns = all[state.subject];
    grid(c, w);
    let y = TOP;
    all.forEach((own, k) => { row(c, own, y, k, w); y += ROW; });
    y += GAP;
    if (WAVE) { sound(c, y, w); y += WAVE + GAP; }
    if (hasParts.expression) {
      names.forEach((name, k) => { label(c, name, y + LANE / 2 + 3, false, data.expressions[k].colour); lane(c, columns, y, k, w); y += LANE; });
      y += GAP;
    }
    if (hasParts.affect) { curves(c, columns, y, w); y += CURVES + GAP; }
    strip(c, columns, y, w); y += STRIP;
    axis(c, y + 8, w);
  }
  // Values of each pixel column: means over the rows inside it, or the row that lasts into it.
  function bin(s, w) {
    const out = [], last = s.times[s.n - 1] + (s.n > 1 ? s.times[s.n - 1] - s.times[s.n - 2] : 0);
    for (let x = 0; x < w; x++) {
      const from = mapping.toTime(x, state.view, w), to = mapping.toTime(x + 1, state.view, w);
      if (to < s.times[0] || from > last) { out.push(null); continue; }
      const a = mapping.locate(s.times, from), b = Math.max(a, mapping.locate(s.times, to - 1e-5));
      const p = new Float32Array(K), va = [0, 0], votes = new Uint16Array(K), counts = [0, 0];
      let known = 0, valued = 0, face = 0, voice = 0, speaks = 0, may = 0;
      for (let i = a; i <= b; i++) {
        face += hasFace(s, i); voice += hasVoice(s, i); speaks += isSpeaking(s, i); may += maySpeak(s, i);
        if (hasValence(s, i)) valued++;
        for (const k of [0, 1]) if (hasAxis(s, i, k)) { counts[k]++; va[k] += s.va[i * 2 + k] / 127; }
        if (s.named[i] === NONE) continue;
        known++; votes[s.named[i]]++;
        for (let k = 0; k < K; k++) p[k] += s.p[i * K + k] / 255;
      }
      const n = b - a + 1;
      out.push({ known: known > 0, valued: valued > 0, p: p.map(v => v / known), va: va.map((v, k) => counts[k] ? v / counts[k] : null), named: votes.indexOf(Math.max(...votes)), face: face / n, voice: voice / n, speaks: speaks / n, may: may / n });
    }
    // Many rows a column: a column alone is noise, so each takes the mean of its neighbours too.
    const many = s.n * (state.view.to - state.view.from) / Math.max(1e-3, last - s.times[0]) / w;
    return many < 4 ? out : smooth(out, many < 30 ? 1 : 2);
  }
  function smooth(columns, reach) {
    return columns.map((v, x) => {
      if (!v || !(v.known || v.valued)) return v;
      const near = columns.slice(Math.max(0, x - reach), x + reach + 1).filter(u => u && u.known === v.known && u.valued === v.valued);
      const p = v.p.map((_, k) => near.reduce((sum, u) => sum + u.p[k], 0) / near.length);
      const va = v.va.map((own, k) => own === null ? null : near.reduce((sum, u) => sum + (u.va[k] ?? own), 0) / near.length);
      return { ...v, p, va, named: v.known ? p.indexOf(Math.max(...p)) : v.named };
    });
  }
  // One person: the expression as a band, or whether there is an estimate, and a line for speech.
  function row(c, columns, y, k, w) {
    const s = subjects[k], chosen = several && k === state.subject;
    if (chosen) { c.fillStyle = colour("grid"); c.fillRect(0, y - 2, gutter + w, RIBBON + SPEECH + 4); }
    const text = several ? String(s.id) : hasParts.expression ? "Expression" : "Present";
    const picture = pictures[s.id], side = Math.min(RIBBON, 26);
    if (several && picture && picture.complete) {
      c.save(); c.beginPath(); c.arc(6 + side / 2, y + RIBBON / 2, side / 2, 0, 7); c.clip();
      c.drawImage(picture, 6, y + RIBBON / 2 - side / 2, side, side); c.restore();
    }
    c.font = (chosen || !several ? "600 " : "") + LABEL; c.textAlign = "left"; c.textBaseline = "middle"; c.fillStyle = colour("ink");
    c.fillText(text, several ? (picture ? side + 14 : 6) : 0, y + RIBBON / 2);
    if (hasParts.expression) ribbon(c, columns, y);
    else {
      hatch(c, columns, y, RIBBON, "valued");
      c.fillStyle = colour("valence"); c.globalAlpha = 0.35;
      columns.forEach((v, x) => { if (v && v.valued) c.fillRect(gutter + x, y, 1.5, RIBBON); });
      c.globalAlpha = 1;
    }
    c.fillStyle = colour("voice");
    if (several) columns.forEach((v, x) => {
      if (!v || !v.may) return;
      c.globalAlpha = 0.35 * v.may + 0.65 * v.speaks; c.fillRect(gutter + x, y + RIBBON + 1, 1, SPEECH - 1);
    });
    c.globalAlpha = 1;
  }
  // The loudness of the sound.
  function sound(c, y, w) {
    label(c, "Sound", y + WAVE / 2, true);
    c.fillStyle = colour("grid"); c.fillRect(gutter, y + WAVE / 2 - 0.5, w, 1);
    c.fillStyle = colour("soft"); c.globalAlpha = 0.75;
    for (let x = 0; x < w; x++) {
      const from = mapping.toTime(x, state.view, w) / end * wave.length, to = mapping.toTime(x + 1, state.view, w) / end * wave.length;
      let high = 0;
      for (let i = Math.floor(from); i < Math.max(to, Math.floor(from) + 1) && i < wave.length; i++) high = Math.max(high, wave[i]);
      const h = Math.max(high / 255 * WAVE, high ? 1 : 0); c.fillRect(gutter + x, y + (WAVE - h) / 2, 1, h);
    }
    c.globalAlpha = 1;
  }
  function label(c, text, y, strong, dot) {
    c.font = (strong ? "600 " : "") + LABEL; c.textAlign = "left"; c.textBaseline = "middle";
    if (dot) { c.fillStyle = dot; c.beginPath(); c.roundRect(0, y - 4.5, 9, 9, 2); c.fill(); }
    c.fillStyle = colour(strong ? "ink" : "soft"); c.fillText(shorten(c, text, gutter - 27), dot ? 15 : 0, y);
  }
  // Hatching over runs of columns without an expression (`known`), or without valence and arousal (`valued`).
  function hatch(c, columns, y, h, key = "known") {
    for (let a = 0, b; a < columns.length; a = b) {
      b = a + 1;
      const isHatched = v => Boolean(v) && !v[key];
      while (b < columns.length && isHatched(columns[b]) === isHatched(columns[a])) b++;
      if (!isHatched(columns[a])) continue;
      drawing.hatch(c, gutter + a, y, b - a, h);
    }
  }
  function ribbon(c, columns, y) {
    hatch(c, columns, y, RIBBON);
    columns.forEach((v, x) => {
      if (!v || !v.known) return;
      c.fillStyle = data.expressions[v.named].colour; c.fillRect(gutter + x, y, 1.5, RIBBON);
    });
    // Names where they fit, so that no meaning depends on colour alone.
    c.font = "600 11.5px system-ui, sans-serif"; c.textAlign = "left"; c.textBaseline = "middle";
    for (let a = 0, b; a < columns.length; a = b) {
      b = a + 1;
      const name = v => v && v.known ? v.named : -1;
      while (b < columns.length && name(columns[b]) === name(columns[a])) b++;
      if (name(columns[a]) < 0) continue;
      if (a) { c.fillStyle = colour("card"); c.fillRect(gutter + a - 0.5, y, 1, RIBBON); }
      const text = names[name(columns[a])];
      if (RIBBON < 14 || c.measureText(text).width + 12 > b - a) continue;
      c.fillStyle = data.expressions[name(columns[a])].ink; c.fillText(text, gutter + a + 6, y + RIBBON / 2 + 0.5);
    }
  }
  function lane(c, columns, y, k, w) {
    const base = y + LANE - 1, room = LANE - 5;
    c.fillStyle = colour("grid"); c.fillRect(gutter, base, w, 1);
    c.fillStyle = data.expressions[k].colour;
    columns.forEach((v, x) => {
      if (v && v.known) { const h = v.p[k] * room; c.globalAlpha = 0.9; c.fillRect(gutter + x, base - h, 1.1, h); c.globalAlpha = 1; }
    });
    hatch(c, columns, y + 4, LANE - 5);
  }
  function curves(c, columns, y, w) {
    const middle = y + CURVES / 2, room = CURVES / 2 - 4;
    label(c, "Valence", y + 30, false); label(c, "Arousal", y + 48, false);
    c.strokeStyle = colour("grid"); c.lineWidth = 1; c.fillStyle = colour("faint"); c.font = "11px system-ui, sans-serif"; c.textAlign = "right";
    for (const v of [-1, -0.5, 0, 0.5, 1]) {
      const at = Math.round(middle - v * room) + 0.5;
      c.strokeStyle = colour(v === 0 ? "line" : "grid"); c.beginPath(); c.moveTo(gutter, at); c.lineTo(gutter + w, at); c.stroke();
      if (v % 1 === 0) c.fillText(v > 0 ? "+1" : v < 0 ? "−1" : "0", gutter - 8, at);
    }
    hatch(c, columns, y + 4, CURVES - 8, "valued");
    [["valence", []], ["arousal", [6, 4]]].forEach(([name, dash], k) => {
      c.strokeStyle = colour(name); c.lineWidth = 2; c.setLineDash(dash); c.lineJoin = "round"; c.beginPath();
      let pen = false;
      for (const [x, value] of points(columns, k, w)) {
        if (value === null) { pen = false; continue; }
        if (pen) c.lineTo(gutter + x, middle - value * room); else c.moveTo(gutter + x, middle - value * room);
        pen = true;
      }
      c.stroke(); c.setLineDash([]);
      c.beginPath(); c.moveTo(56, y + 30 + 18 * k); c.setLineDash(dash); c.lineTo(78, y + 30 + 18 * k); c.stroke(); c.setLineDash([]);
    });
  }
  // Points of a curve: the rows themselves if there are fewer than columns, else means of the columns. null is a gap.
  function points(columns, k, w) {
    const s = current(), a = mapping.locate(s.times, state.view.from), b = Math.min(s.n - 1, mapping.locate(s.times, state.view.to) + 1);
    if (b - a > w) return columns.map((v, x) => [x + 0.5, v && v.valued ? v.va[k] : null]);
    const out = [];
    for (let i = a; i <= b; i++) {
      const x = mapping.toPixel(s.times[i], state.view, w), value = hasAxis(s, i, k) ? s.va[i * 2 + k] / 127 : null;
      out.push([mapping.clamp(x, 0, w), value]);
      // The last row lasts as long as the one before it; a single row until the end.
      const stop = s.n > 1 ? Math.min(end, 2 * s.times[i] - s.times[i - 1]) : end;
      if (i === s.n - 1 && value !== null) out.push([mapping.clamp(mapping.toPixel(stop, state.view, w), 0, w), value]);
    }
    return out;
  }
  function strip(c, columns, y, w) {
    const half = 12, kinds = data.kind === "audio" ? ["voice"] : ["face", "voice"];
    label(c, "Evidence", y + STRIP / 2, true);
    c.font = "10px system-ui, sans-serif"; c.textAlign = "right";
    kinds.forEach((kind, k) => {
      const top = y + k * (half + 2);
      c.fillStyle = colour("grid"); c.fillRect(gutter, top, w, half);
      c.fillStyle = colour(kind);
      columns.forEach((v, x) => { if (v && v[kind] > 0) { c.globalAlpha = 0.25 + 0.75 * v[kind]; c.fillRect(gutter + x, top, 1, half); } });
      c.globalAlpha = 1; c.fillStyle = colour("faint"); c.fillText(kind, gutter - 8, top + half / 2 + 0.5);
    });
  }
  function grid(c, w) {
    c.fillStyle = colour("grid");
    for (const t of mapping.ticks(state.view, w, 84).at) c.fillRect(Math.round(gutter + mapping.toPixel(t, state.view, w)), 0, 1, height - AXIS);
  }
  function axis(c, y, w) {
    const { step, at } = mapping.ticks(state.view, w, 84), decimals = step < 1 ? 1 : 0;
    c.font = "11.5px system-ui, sans-serif"; c.textBaseline = "top"; c.textAlign = "center"; c.fillStyle = colour("faint");
    for (const t of at) {
      const text = mapping.clock(t, decimals), half = c.measureText(text).width / 2;
      c.fillText(text, mapping.clamp(gutter + mapping.toPixel(t, state.view, w), gutter + half, gutter + w - half), y);
    }
  }

  // --- input ---------------------------------------------------------------------------------------------------
  const timeAt = event => {
    const box = plot.getBoundingClientRect();
    return mapping.clamp(mapping.toTime(event.clientX - box.left - gutter, state.view, box.width - gutter), 0, end);
  };
  // Index of the person whose row is under the pointer, or -1.
  const rowAt = event => {
    const k = Math.floor((event.clientY - plot.getBoundingClientRect().top - TOP) / ROW);
    return several && k >= 0 && k < subjects.length ? k : -1;
  };
  function hover(event) {
    const box = plot.getBoundingClientRect(), x = event.clientX - box.left, tip = $("tip"), ghost = $("ghost");
    if (x < gutter) return leave();
    const t = timeAt(event), over = rowAt(event), s = over < 0 ? current() : subjects[over], i = mapping.locate(s.times, t), e = s.named[i];
    ghost.style.display = "block"; ghost.style.left = x + "px";
    const first = document.createElement("b"), dot = document.createElement("span"), rest = document.createElement("div");
    dot.className = "swatch"; dot.style.background = e === NONE ? colour("line") : data.expressions[e].colour;
    if (hasParts.expression) first.append(dot);
    first.append((several ? s.id + "  " : "") + estimate(s, i) + (e === NONE ? "" : ` ${Math.round(s.p[i * K + e] / 2.55)} %`));
    const values = hasParts.expression ? affect(s, i).map(text => " · " + text).join("") : "";
    rest.textContent = mapping.clock(s.times[i], 2) + values + (e === NONE && !hasValence(s, i) ? " · no evidence" : "");
    tip.replaceChildren(first, rest); tip.style.display = "block";
    tip.style.left = mapping.clamp(x + 14, 0, box.width - tip.offsetWidth) + "px";
    tip.style.top = Math.max(0, event.clientY - box.top - 60) + "px";
  }
  function leave() { $("tip").style.display = $("ghost").style.display = "none"; }
  function step(rows) {
    const s = current(), i = mapping.clamp(mapping.locate(s.times, state.t) + rows, 0, s.n - 1);
    show(s.times[i], true);
  }
  function scale(factor) { state.view = mapping.zoom(state.view, factor, state.t, end, 1); draw(); moveNeedle(); }
  function selectSubject(k) {
    if (k < 0 || k >= subjects.length) return;
    state.subject = k;
    [...$("subjects").children].forEach((b, j) => b.setAttribute("aria-pressed", String(j === k)));
    if ($("of")) $("of").textContent = "curves of subject " + subjects[k].id;
    if (!still) { draw(); moveNeedle(); }
    updateReadout(); drawBoxes();
  }
  const toggle = () => player && !player.hidden && player.src && (player.paused ? player.play() : player.pause());
  const keys = {
    " ": () => toggle(),
    ArrowLeft: e => e.shiftKey ? show(state.t - 1, true) : step(-1), ArrowRight: e => e.shiftKey ? show(state.t + 1, true) : step(1),
    Home: () => show(0, true), End: () => show(end, true),
    "+": () => scale(0.5), "=": () => scale(0.5), "-": () => scale(2), "0": () => { state.view = { from: 0, to: end }; scale(1); },
  };
  function connectPlot() {
    let held = false;
    plot.addEventListener("pointerdown", e => {
      if (rowAt(e) >= 0) selectSubject(rowAt(e));
      if (e.clientX - plot.getBoundingClientRect().left < gutter) return;
      held = true; plot.setPointerCapture(e.pointerId); show(timeAt(e), true);
    });
    plot.addEventListener("pointermove", e => { hover(e); if (held) show(timeAt(e), true); });
    plot.addEventListener("pointerup", () => { held = false; });
    plot.addEventListener("pointercancel", () => { held = false; });
    plot.addEventListener("pointerleave", leave);
    plot.addEventListener("wheel", e => {
      if (!e.ctrlKey && !e.metaKey) return;
      e.preventDefault(); state.view = mapping.zoom(state.view, e.deltaY > 0 ? 1.25 : 0.8, timeAt(e), end, 1); draw(); moveNeedle();
    }, { passive: false });
    document.addEventListener("keydown", e => {
      if (e.target.closest("input, audio, video, summary, button") && e.key === " ") return;
      if (e.altKey || e.ctrlKey || e.metaKey) return;
      if (keys[e.key]) { e.preventDefault(); keys[e.key](e); } else if (/^[1-9]$/.test(e.key)) selectSubject(Number(e.key) - 1);
    });
    $("in").onclick = () => scale(0.5); $("out").onclick = () => scale(2); $("all").onclick = keys["0"];
    document.querySelectorAll(".stretch").forEach(b => b.addEventListener("click", () => {
      selectSubject(subjects.findIndex(s => s.id === Number(b.dataset.subject)));
      show(Number(b.dataset.time), true); scrollTo({ top: 0, behavior: "smooth" });
    }));
  }
  // A click on a face selects its person; anywhere else on the picture it starts or stops the video.
  function connectBoxes() {
    const canvas = $("boxes"), screen = canvas && canvas.parentElement;
    if (!screen) return;
    const at = e => {
      const box = canvas.getBoundingClientRect(), x = e.clientX - box.left, y = e.clientY - box.top;
      const inside = hits.filter(h => x >= h.x && x <= h.x2 && y >= h.y && y <= h.y2);
      return inside.sort((a, b) => (a.x2 - a.x) * (a.y2 - a.y) - (b.x2 - b.x) * (b.y2 - b.y))[0];
    };
    screen.addEventListener("click", e => { if (e.target.closest(".absent")) return; const hit = at(e); if (hit && several) selectSubject(hit.k); else if (!still) toggle(); });
    screen.addEventListener("pointermove", e => { screen.style.cursor = several && at(e) ? "pointer" : ""; });
  }
  function connectControls() {
    if (!$("controls")) return;
    $("play").onclick = toggle;
    $("seek").addEventListener("input", () => show(Number($("seek").value), true));
    $("speed").onchange = () => { player.playbackRate = Number($("speed").value); };
    $("mute").onclick = () => { player.muted = !player.muted; };
    const state = () => { $("play").textContent = player.paused ? "▶" : "❚❚"; $("mute").setAttribute("aria-pressed", String(player.muted)); };
    for (const name of ["play", "pause", "ended", "volumechange"]) player.addEventListener(name, state);
  }
  function connectPlayer() {
    if (!player || still) return;
    const now = () => player.currentTime;
    if (player.requestVideoFrameCallback) {
      const tick = (_, frame) => {
        // While paused or seeking, a frame requested earlier must not move the cursor back.
        if (!player.paused && !player.seeking) show(frame.mediaTime, false);
        player.requestVideoFrameCallback(tick);
      };
      player.requestVideoFrameCallback(tick);
    }
    // There are no frame callbacks for audio, or after the last frame of a video with longer audio.
    const follow = () => { if (player.paused) return; if (!player.videoWidth || player.currentTime > data.media.pictures) show(now(), false); requestAnimationFrame(follow); };
    player.addEventListener("play", follow);
    player.addEventListener("seeked", () => { if (!player.seeking && Math.abs(now() - state.t) > 0.02) show(now(), false); });
    player.addEventListener("loadedmetadata", drawBoxes);
  }

  if (hasParts.expression) names.forEach((name, k) => {
    const text = document.createElement("span"), rail = document.createElement("span"), fill = document.createElement("span"), value = document.createElement("span");
    text.textContent = text.title = name; text.className = "class"; rail.className = "rail"; fill.className = "fill"; fill.style.display = "block"; fill.style.background = data.expressions[k].colour;
    value.className = "value"; rail.append(fill); $("bars").append(text, rail, value);
  });
  if (several) subjects.forEach((s, k) => {
    const card = document.createElement("button"), text = document.createElement("span"), name = document.createElement("b"), now = document.createElement("span");
    card.type = "button"; card.setAttribute("aria-pressed", String(k === 0)); card.onclick = () => selectSubject(k);
    name.textContent = faces[s.id] ? String(s.id) : "Subject " + s.id; text.append(name, now);
    if (faces[s.id]) { const image = document.createElement("img"); image.src = faces[s.id]; image.alt = "subject " + s.id; card.append(image); }
    card.append(text); $("subjects").append(card);
  });
  $("subjects").classList.toggle("many", subjects.length > 8); $("subjects").hidden = !several;
  if ($("of")) $("of").textContent = "curves of subject " + subjects[0].id;
  $("theme").onclick = () => {
    const root = document.documentElement; root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    if (!still) draw(); updateReadout(); updatePeople();
  };
  const layout = () => { if (!still) { draw(); moveNeedle(); } drawBoxes(); };
  addEventListener("resize", layout);
  // Print in dark ink on white, whatever the theme, at the width of the paper.
  let theme = "";
  addEventListener("beforeprint", () => { theme = document.documentElement.dataset.theme; document.documentElement.dataset.theme = "light"; layout(); updateReadout(); });
  addEventListener("afterprint", () => { document.documentElement.dataset.theme = theme; layout(); updateReadout(); });
  if (!still) connectPlot();
  connectPlayer(); connectBoxes(); connectControls();
  if (player) player.addEventListener("load", drawBoxes);
  layout(); show(state.t, false);
  // `#t=12.5` opens the page at 12.5 s.
  const asked = /[#&]t=([\d.]+)/.exec(location.hash);
  if (asked) { show(Number(asked[1]), true); if (player && !still) player.addEventListener("loadedmetadata", () => show(Number(asked[1]), true), { once: true }); }
  window.mien = { state, show, selectSubject, step, data };
})();
