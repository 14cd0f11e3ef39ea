// Collects sound of one channel in blocks of about 40 ms.
const BLOCK = 2048;

class Collector extends AudioWorkletProcessor {
  constructor() { super(); this.block = new Float32Array(BLOCK); this.filled = 0; }
  process([input]) {
    if (!input.length) return true;
    const n = input[0].length;
    if (!this.filled) this.startS = currentTime;
    for (let i = 0; i < n; i++) {
      let sum = 0;
      for (const channel of input) sum += channel[i];
      this.block[this.filled + i] = sum / input.length;
    }
    this.filled += n;
    if (this.filled >= BLOCK) {
      this.port.postMessage({ startS: this.startS, samples: this.block }, [this.block.buffer]);
      this.block = new Float32Array(BLOCK); this.filled = 0;
    }
    return true;
  }
}
registerProcessor("collector", Collector);
