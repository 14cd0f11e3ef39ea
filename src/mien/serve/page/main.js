// The page: connects to the server, shows what it offers, and switches between recordings and camera.

import { getJson, sentences, setToken, takeToken } from "./api.js";
import * as camera from "./camera.js";
import * as recordings from "./recordings.js";
import { $, duration, element, isThisComputer, reach, size } from "./words.js";

takeToken();
for (const place of document.querySelectorAll(".key")) place.append($("key").content.cloneNode(true));  // the key of the charts
let isReady = false;
let wasTried = false;  // a token that the user typed

// Ask what the server offers; tries again while it does not answer.
async function connect() {
  let server, version;
  try {
    server = await getJson("/v1/models");
    if (!isReady) ({ version } = await getJson("/healthz"));
  } catch (error) {
    report(error);
    if (error.status !== 401) setTimeout(connect, 3000);
    return;
  }
  report(null);
  if (isReady) return;
  isReady = true;
  show(server, version);
  recordings.start(server, report);
  camera.start(server);
}

// Show an error of the connection, or that there is none.
function report(error) {
  const asks = error?.status === 401, field = $("token-value");
  const wasHidden = $("token").hidden, hadFocus = $("token").contains(document.activeElement);
  $("token").hidden = !asks;
  if (asks && wasHidden) field.focus();
  if (!asks && hadFocus) tabs.find(tab => !tab.tabIndex).focus();
  $("token-error").textContent = asks && wasTried ? "The server does not accept this token. Copy it again, without spaces." : "";
  $("trouble").hidden = !error || asks;
  $("trouble").textContent = error && !asks ? sentences(error.text, error.status ? "" : "The page tries again by itself") : "";
  if (error && !isReady) $("facts").textContent = "Not connected";
}

function show(server, version) {
  document.querySelector("main").inert = false;  // before, a file would be taken and forgotten
  const [first] = server.models, { upload_bytes: limit, keep_seconds: keep } = server.limits;
  $("version").textContent = version;
  $("facts").textContent = `${location.host}${isThisComputer() ? ", this computer" : ""} · model ${first.name}`;
  $("limit").textContent = `, up to ${size(limit)} each`;
  $("keep").textContent = duration(keep);
  $("formats").textContent = new Intl.ListFormat("en", { type: "disjunction" }).format(server.formats);
  const [where, open] = reach();
  $("reach").textContent = `Recordings go ${where} They go nowhere else.${open}`;
  $("camera-reach").textContent = `Picture and sound go ${where} They go nowhere else.${open}`;
  $("model").append(...server.models.map(model => element("option", { value: model.name, textContent: model.name })));
  $("model-field").hidden = server.models.length < 2;
  $("classes").replaceChildren(...Object.entries(first.colours).map(([name, { fill, text }]) => {
    const item = element("li", { textContent: name });
    item.style.background = fill; item.style.color = text;
    return item;
  }));
}

// The browser would open a file that is dropped here too early, and leave the page.
for (const type of ["dragover", "drop"]) addEventListener(type, event => { if (!isReady) event.preventDefault(); });

$("token").addEventListener("submit", event => {
  event.preventDefault();
  setToken($("token-value").value.trim());
  wasTried = true;
  connect();
});

// --- tabs: arrow keys move between them ------------------------------------------------------------------------
const tabs = [$("tab-files"), $("tab-camera")];
function choose(tab) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", String(chosen)); one.tabIndex = chosen ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !chosen;
  }
  dispatchEvent(new Event("resize"));  // canvases have no size while they are hidden
}
for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", event => {
    if (!["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
    event.preventDefault();
    const other = event.key === "Home" ? tabs[0] : event.key === "End" ? tabs[1] : tabs[1 - tabs.indexOf(tab)];
    choose(other); other.focus();
  });
}

connect();
