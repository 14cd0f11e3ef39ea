// Requests to the server that delivered this page. The token stays in this module and is never stored.

let token = "";

// A request that failed. what, follows, remedy: as the server states errors. status: of HTTP, 0 without an answer.
export class Refusal extends Error {
  constructor({ what, follows = "", remedy = "" }, status = 0, retryAfter = 0) {
    super(what);
    Object.assign(this, { what, follows, remedy, status, retryAfter });
  }
  get text() { return sentences(this.what, this.follows, this.remedy); }
}

// Texts as sentences, with a capital and a full stop each.
export function sentences(...texts) {
  return texts.filter(Boolean).map(t => t[0].toUpperCase() + t.slice(1) + (/[.!?]$/.test(t) ? "" : ".")).join(" ");
}

export const setToken = value => { token = value; };

// Take the token out of the address `#token=...`, so that it is neither shown nor kept in the history.
export function takeToken() {
  const found = /[#&]token=([A-Za-z0-9_.~-]+)/.exec(location.hash);
  if (!found) return;
  token = found[1];
  history.replaceState(null, "", location.pathname + location.search);
}

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

function silence() {
  return new Refusal({
    what: `The server at ${location.origin} does not answer`,
    remedy: "Check that mien serve still runs and that this computer is connected",
  });
}

function unreadable() {
  return new Refusal({
    what: "The browser cannot read this file", follows: "Nothing was sent",
    remedy: "Choose it again if it was moved or changed since. Of a folder, choose the files in it",
  });
}

function refusalOf(status, text, retryAfter) {
  let error = {};
  try { error = JSON.parse(text).error ?? {}; } catch { /* a proxy answers with a page of its own */ }
  const what = error.what ?? `The server answered with status ${status}`;
  return new Refusal({ what, follows: error.follows, remedy: error.remedy }, status, Number(retryAfter) || 0);
}

// signal: of an AbortController; an aborted call throws as one without an answer.
export async function call(path, { method = "GET", signal } = {}) {
  let answer;
  try { answer = await fetch(path, { method, signal, headers: headers() }); } catch { throw silence(); }
  if (!answer.ok) throw refusalOf(answer.status, await answer.text(), answer.headers.get("retry-after"));
  return answer;
}

export const getJson = async (path, options) => (await call(path, options)).json();

// Upload a file; resolves with the job. Only the suffix of its name is sent. onProgress: called with the bytes that were
// sent, and whether these are all.
export function upload(file, query, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(), suffix = /\.[A-Za-z0-9]{1,10}$/.exec(file.name)?.[0] ?? "";
    request.open("POST", `/v1/timelines?${query}`);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("X-File-Name", `recording${suffix}`);
    request.upload.onprogress = event => onProgress(event.loaded, false);
    request.upload.onload = event => onProgress(event.loaded, true);
    request.onload = () => {
      if (request.status === 202) resolve(JSON.parse(request.responseText));
      else reject(refusalOf(request.status, request.responseText, request.getResponseHeader("retry-after")));
    };
    // A folder, or a file that was moved or changed, ends the request as a silent server does.
    request.onerror = () => file.slice(0, 1).arrayBuffer().then(() => reject(silence()), () => reject(unreadable()));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

export function openLive(query) {
  const address = new URL(`/v1/live?${query}`, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address, token ? ["mien", `mien.token.${token}`] : ["mien"]);
  socket.binaryType = "arraybuffer";
  return socket;
}

// Offer data to the user as a file.
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
