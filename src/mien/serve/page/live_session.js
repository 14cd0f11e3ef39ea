// One live session: pictures of the camera and sound of the microphone up, rows down. docs/SERVER.md describes the messages.

import { getJson, openLive, sentences } from "./api.js";
import { createEncoder } from "./video_encoder.js";

// Our choice: width of the pictures that are sent, JPEG quality, pictures that may wait at the server,
// which keeps 4 (one where it is slow, because pictures that wait are late), shortest time between two pictures, bytes that may wait in the browser, and the wait for the last rows.
const WIDTH = 640, QUALITY = 0.8, WAITING = 2, SLOW_RATE = 8, STEP_S = 1 / 31, MOST_BUFFERED = 500_000, LAST_ROWS_MS = 3000;
const FULL = "The server did not open a live session. It allows a small number at a time (mien serve --live): stop another one, or try again in a minute.";
const OTHER_TOKEN = "The server asks for another token. Type it where the page asks for it, then start again.";
const PICTURE = 1, FLOAT_SOUND = 2, CHUNK = 4;
const now = () => performance.now() / 1000;

function message(kind, rate, timeS, data, codec = 0, isKey = false) {
  const bytes = new Uint8Array(16 + data.byteLength), header = new DataView(bytes.buffer);
  header.setUint8(0, kind); header.setUint8(1, codec); header.setUint8(2, isKey); header.setUint32(4, rate, true); header.setFloat64(8, timeS, true);
  bytes.set(new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength), 16);
  return bytes;
}

// Events: "ready" (detail: classes, delay_s), "rows" (detail: rows, faces, dropped), "end" (detail: a reason, "" where
// the user asked for it). Times of rows are seconds since the start.
export class LiveSession extends EventTarget {
  // video: element that shows the stream. stream: of getUserMedia. query: options of /v1/live. usesVideo: send chunks of
  // video where the browser encodes them, otherwise JPEG.
  constructor(video, stream, query, usesVideo) {
    super();
    this.usesVideo = usesVideo; this.encoder = null;
    this.video = video; this.stream = stream; this.startS = now();
    this.waiting = 0; this.read = []; this.lastS = -1; this.isReady = this.isOver = this.isStopping = false; this.reason = "";
    this.canvas = document.createElement("canvas");
    this.canvas.width = 0;
    this.socket = openLive(query);
    this.socket.onmessage = event => this.receive(JSON.parse(event.data));
    this.socket.onclose = event => this.end(event.code);
    for (const track of stream.getTracks()) {
      track.addEventListener("ended", () => { if (!this.isStopping) { this.reason = "The camera or the microphone was disconnected, or the browser took it back. Connect it and start again."; this.stop(); } });
    }
  }

  get elapsedS() { return now() - this.startS; }
  // Pictures read by the server within the last two seconds, per second.
  get pictureRate() { const from = now() - 2; this.read = this.read.filter(t => t > from); return this.read.length / 2; }

  receive(data) {
    if (data.type === "ready") {
      this.isReady = true;
      this.emit("ready", data);
      if (this.stream.getVideoTracks().length) this.nextPicture();
      if (this.stream.getAudioTracks().length) this.sendSound().catch(error => { this.reason = `The microphone could not be read: ${error.message}. Start again without it.`; this.stop(); });
    } else if (data.type === "read") {
      this.waiting--; this.read.push(now());
    } else if (data.type === "key_frame") {
      this.encoder?.restart();
    } else if (data.type === "rows") {
      this.emit("rows", data);
    } else if (data.type === "error") {
      this.reason = sentences(data.what, data.follows, data.remedy);
    }
  }

  emit(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  nextPicture() {
    if (this.isStopping) return;
    const take = (time, frame) => { this.sendPicture((frame?.captureTime ?? time) / 1000 - this.startS); this.nextPicture(); };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(take); else requestAnimationFrame(take);
  }

  sendPicture(timeS) {
    const { videoWidth: w, videoHeight: h } = this.video;
    const isBusy = this.isEncoding || this.encoder?.isBusy || this.waiting >= (this.pictureRate < SLOW_RATE ? 1 : WAITING) || this.socket.bufferedAmount > MOST_BUFFERED;
    if (isBusy || !w || timeS < this.lastS + STEP_S) return;
    const scale = Math.min(1, WIDTH / Math.max(w, h)), even = side => 2 * Math.round(side * scale / 2);  // codecs need even sides
    if (this.canvas.width !== even(w) || this.canvas.height !== even(h)) {
      this.canvas.width = even(w); this.canvas.height = even(h);
      this.chooseEncoder();
    }
    if (this.isEncoding) return;
    this.canvas.getContext("2d", { willReadFrequently: true }).drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    this.lastS = timeS;
    if (this.encoder) {
      try { this.encoder.encode(this.canvas, timeS); } catch { this.encoder = null; this.usesVideo = false; }  // JPEG from now on
      return;
    }
    this.isEncoding = true;
    this.canvas.toBlob(async blob => {
      const data = await blob.arrayBuffer();
      this.isEncoding = false;
      this.sendData(message(PICTURE, 0, timeS, data));
    }, "image/jpeg", QUALITY);
  }

  sendData(data) {
    if (this.isStopping || this.socket.readyState !== WebSocket.OPEN) return;
    this.waiting++;
    this.socket.send(data);
  }

  // Use an encoder of video for pictures of the size of the canvas, if the browser has one.
  async chooseEncoder() {
    this.encoder?.close(); this.encoder = null;
    if (!this.usesVideo) return;
    this.isEncoding = true;
    this.encoder = await createEncoder(this.canvas.width, this.canvas.height,
      ({ timeS, data, codec, isKey }) => this.sendData(message(CHUNK, 0, timeS, data, codec, isKey)),
      () => { this.encoder = null; this.usesVideo = false; });
    this.isEncoding = false;
    if (this.isStopping) this.encoder?.close();
  }

  async sendSound() {
    const context = this.context = new AudioContext();
    await context.audioWorklet.addModule("sound_worklet.js");
    if (this.isStopping) { context.close(); return; }
    const collector = new AudioWorkletNode(context, "collector", { outputChannelCount: [1] });
    let offset = null;  // between the clock of the sound and that of the pictures; both drift, so it follows slowly
    collector.port.onmessage = ({ data: { startS, samples } }) => {
      if (this.isStopping || this.socket.readyState !== WebSocket.OPEN) return;
      const measured = now() - context.currentTime;
      offset = offset === null || Math.abs(measured - offset) > 0.5 ? measured : offset + 0.01 * (measured - offset);
      this.socket.send(message(FLOAT_SOUND, context.sampleRate, startS + offset - this.startS, samples));
    };
    context.createMediaStreamSource(this.stream).connect(collector).connect(context.destination);  // its output is silent
    await context.resume();
  }

  // Switch the camera off at once, and wait for the last rows.
  stop() {
    if (this.isStopping) return;
    this.isStopping = true;
    for (const track of this.stream.getTracks()) track.stop();
    this.video.srcObject = null;
    this.context?.close();
    this.encoder?.close();
    if (this.socket.readyState === WebSocket.OPEN && this.isReady) {
      this.socket.send('{"finish": true}');
      setTimeout(() => this.socket.close(), LAST_ROWS_MS);
    } else this.socket.close();
    this.emit("off");
  }

  async end(code) {
    if (this.isOver) return;
    this.isOver = true;
    const wasAsked = this.isStopping;
    this.stop();
    // The browser does not say why a connection was refused: another request does.
    const refused = this.isReady || this.reason || wasAsked ? "" : await getJson("/v1/models").then(() => FULL, error => (error.status === 401 ? OTHER_TOKEN : error.text));
    const unasked = refused ? refused
      : code === 1011 ? "The process of the session ended unexpectedly. Start again."
      : "The connection to the server broke off. Check that mien serve still runs, and start again.";
    this.emit("end", this.reason || (wasAsked ? "" : unasked));
  }
}
