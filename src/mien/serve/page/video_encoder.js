// Encode pictures as chunks of video, where the browser has WebCodecs.

// Our choice: codecs in the order of preference, each with its number in the messages; bits per second; pictures per second that the rate is planned for.
const CODECS = [["vp8", 1, {}], ["avc1.42E01F", 3, { avc: { format: "annexb" } }], ["vp09.00.10.08", 2, {}]];
const BITRATE = 1_000_000, RATE = 30;

// An encoder of pictures of width x height pixels; null where the browser has none.
// onChunk: called with { timeS, data, codec, isKey }. onFailure: called where the encoder ended by itself.
export async function createEncoder(width, height, onChunk, onFailure) {
  if (typeof VideoEncoder === "undefined") return null;
  for (const [name, codec, more] of CODECS) {
    const config = { codec: name, width, height, bitrate: BITRATE, framerate: RATE, latencyMode: "realtime", ...more };
    try {
      if ((await VideoEncoder.isConfigSupported(config)).supported) return new ChunkEncoder(config, codec, onChunk, onFailure);
    } catch { /* the next one */ }
  }
  return null;
}

class ChunkEncoder {
  constructor(config, codec, onChunk, onFailure) {
    this.isFirst = true;
    this.encoder = new VideoEncoder({
      output: chunk => {
        const data = new Uint8Array(chunk.byteLength);
        chunk.copyTo(data);
        onChunk({ timeS: chunk.timestamp / 1e6, data, codec, isKey: chunk.type === "key" });
      },
      error: onFailure,
    });
    this.encoder.configure(config);
  }

  get isBusy() { return this.encoder.encodeQueueSize > 0; }
  // The next picture can be decoded without those before it.
  restart() { this.isFirst = true; }

  encode(canvas, timeS) {
    const frame = new VideoFrame(canvas, { timestamp: Math.round(timeS * 1e6) });
    this.encoder.encode(frame, { keyFrame: this.isFirst });
    this.isFirst = false;
    frame.close();
  }

  close() { if (this.encoder.state !== "closed") this.encoder.close(); }
}
