// Drawings that the report and the page of the server share. Pure functions of a canvas and numbers.
const drawing = {
  // The colour of a name of base.css.
  colour(name) { return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim(); },
  // Valence and arousal as a point; trail: [valence, arousal, opacity] of earlier moments, the newest last, null for a gap.
  plane(canvas, trail) {
    const c = canvas.getContext("2d"), size = canvas.width, at = v => size / 2 + v * (size / 2 - 16), colour = drawing.colour;
    c.clearRect(0, 0, size, size);
    c.strokeStyle = colour("line"); c.lineWidth = 2;
    c.strokeRect(1, 1, size - 2, size - 2);
    c.beginPath(); c.moveTo(size / 2, 0); c.lineTo(size / 2, size); c.moveTo(0, size / 2); c.lineTo(size, size / 2); c.stroke();
    c.fillStyle = colour("faint"); c.font = "20px system-ui, sans-serif";
    c.textAlign = "center"; c.fillText("excited", size / 2, 24); c.fillText("calm", size / 2, size - 10);
    c.save(); c.translate(22, size / 2); c.rotate(-Math.PI / 2); c.fillText("unpleasant", 0, 0); c.restore();
    c.save(); c.translate(size - 14, size / 2); c.rotate(-Math.PI / 2); c.fillText("pleasant", 0, 0); c.restore();
    const last = trail.at(-1);
    if (!last) return;
    c.strokeStyle = colour("accent"); c.lineWidth = 4;
    for (let k = 1; k < trail.length; k++) {
      if (!trail[k - 1] || !trail[k]) continue;
      c.globalAlpha = trail[k][2];
      c.beginPath(); c.moveTo(at(trail[k - 1][0]), at(-trail[k - 1][1])); c.lineTo(at(trail[k][0]), at(-trail[k][1])); c.stroke();
    }
    c.globalAlpha = 1; c.fillStyle = colour("accent");
    c.beginPath(); c.arc(at(last[0]), at(-last[1]), 10, 0, 7); c.fill();
  },
  // A face: its box [x, y, x2, y2] in pixels, in the colour of its expression, with a label.
  face(c, [x, y, x2, y2], tint, text) {
    c.lineWidth = 4; c.strokeStyle = "rgb(0 0 0 / 45%)"; c.strokeRect(x, y, x2 - x, y2 - y);
    c.lineWidth = 2; c.strokeStyle = tint; c.strokeRect(x, y, x2 - x, y2 - y);
    c.font = "600 12px system-ui, sans-serif"; c.textAlign = "left";
    const wide = c.measureText(text).width + 14, top = y >= 20 ? y - 20 : y;
    c.fillStyle = "rgb(12 13 16 / 82%)"; c.fillRect(x - 1, top, wide + 8, 20);
    c.fillStyle = tint; c.fillRect(x - 1, top, 5, 20);
    c.fillStyle = "#fff"; c.textBaseline = "middle"; c.fillText(text, x + 10, top + 10.5);
  },
  // Diagonal lines: no estimate.
  hatch(c, x, y, w, h) {
    c.save(); c.beginPath(); c.rect(x, y, w, h); c.clip();
    c.strokeStyle = drawing.colour("hatch"); c.lineWidth = 1.5; c.beginPath();
    for (let from = x - h; from < x + w + h; from += 6) { c.moveTo(from, y + h); c.lineTo(from + h, y); }
    c.stroke(); c.restore();
  },
  // A canvas of `height` pixels as wide as its element, for drawing in CSS pixels; returns its context.
  prepare(canvas, width, height) {
    const ratio = devicePixelRatio || 1, c = canvas.getContext("2d");
    const w = Math.round(width * ratio), h = Math.round(height * ratio);
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    canvas.style.width = width + "px"; canvas.style.height = height + "px";
    c.setTransform(ratio, 0, 0, ratio, 0, 0); c.clearRect(0, 0, width, height);
    return c;
  },
};
