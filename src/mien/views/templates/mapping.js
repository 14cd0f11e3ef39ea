// Conversions between seconds, rows and pixels. Pure functions, tested by tests/views/test_report.py.
const mapping = {
  // base64 of little-endian numbers -> typed array
  decode(text, Type) {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Type(bytes.buffer);
  },
  // Row at time t: the last one not later than t, or the first row.
  locate(times, t) {
    let low = 0, high = times.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (times[middle] <= t + 1e-6) low = middle; else high = middle - 1;
    }
    return low;
  },
  toPixel(t, view, width) { return (t - view.from) / (view.to - view.from) * width; },
  toTime(x, view, width) { return view.from + x / width * (view.to - view.from); },
  clamp(value, low, high) { return Math.min(Math.max(value, low), high); },
  // A view of at least `least` seconds inside [0, end], zoomed by `factor` with the time `anchor` staying in place.
  zoom(view, factor, anchor, end, least) {
    const span = mapping.clamp((view.to - view.from) * factor, Math.min(least, end), end);
    const share = (anchor - view.from) / (view.to - view.from);
    const from = mapping.clamp(anchor - share * span, 0, end - span);
    return { from, to: from + span };
  },
  // The same span, moved so that t is inside; unchanged where it already is.
  follow(view, t, end) {
    if (t >= view.from && t <= view.to) return view;
    const span = view.to - view.from;
    const from = mapping.clamp(t - span * 0.1, 0, Math.max(0, end - span));
    return { from, to: from + span };
  },
  // Round steps for a time axis with about one label every `every` pixels.
  ticks(view, width, every) {
    const rough = (view.to - view.from) / Math.max(1, width / every);
    const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
    const step = steps.find(s => s >= rough) ?? 7200;
    const out = [];
    for (let k = Math.ceil(view.from / step - 1e-9); k * step <= view.to + 1e-9; k++) out.push(k * step);
    return { step, at: out };
  },
  // 0:04.2, 61:05 as 1:01:05: minutes and seconds, with hours from one hour on.
  clock(t, decimals) {
    const scale = 10 ** decimals, whole = Math.round(t * scale) / scale;
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) - hours * 60, seconds = whole - hours * 3600 - minutes * 60;
    const rest = seconds.toFixed(decimals).padStart(decimals ? decimals + 3 : 2, "0");
    return hours ? hours + ":" + String(minutes).padStart(2, "0") + ":" + rest : minutes + ":" + rest;
  },
  // Scale and position of an image of width x height fitted into a box and centred.
  fit(width, height, boxWidth, boxHeight) {
    const scale = Math.min(boxWidth / width, boxHeight / height);
    return { scale, x: (boxWidth - width * scale) / 2, y: (boxHeight - height * scale) / 2 };
  },
};
