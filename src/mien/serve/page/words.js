// Texts, numbers and elements.

export const $ = id => document.getElementById(id);

// An element with properties, attributes (`aria-` and `data-`) and children.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, value); else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  let k = 0;
  while (bytes >= 1024 && k < 3) { bytes /= 1024; k++; }
  return `${Number(bytes.toFixed(bytes < 10 && k ? 1 : 0))} ${units[k]}`;
}

export const count = (n, noun) => `${n.toLocaleString("en")} ${n === 1 ? noun : noun === "person" ? "people" : noun + "s"}`;
export const people = n => count(n, "person");
export const percent = share => `${Math.round(100 * share)} %`;
export const signed = v => (v < 0 ? "−" : "+") + Math.abs(v).toFixed(2);
export const timeOfDay = date => date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

export function duration(seconds) {
  if (seconds < 90) return count(Math.round(seconds), "second");
  if (seconds < 5400) return count(Math.round(seconds / 60), "minute");
  return count(Math.round(seconds / 360) / 10, "hour");
}

// Tell users of screen readers what changed.
export function announce(text) { $("status").textContent = text; }

// Where data goes: the server that delivered this page.
export function isThisComputer() {
  return ["localhost", "[::1]"].includes(location.hostname) || location.hostname.startsWith("127.");
}
export function reach() {
  const where = isThisComputer() ? "a server on this computer" : "the server of this page";
  const open = location.protocol === "http:" && !isThisComputer() ? " The connection is not encrypted." : "";
  return [`only to ${location.host}, ${where}.`, open];
}
