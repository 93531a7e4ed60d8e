// A heat map over a picture, drawn again on every move of the threshold.
import { ends, palette } from "./colours.js";
import { above, outline, quantileOf, upsample } from "./maps.js";

const SIDE = 672; // pixels of the longer side of what is drawn on
const SHADE = (190 << 24) | 0x100c0a; // over what lies below the threshold

export class Heat {
  constructor(canvas) {
    this.canvas = canvas;
    this.small = document.createElement("canvas");
    this.values = null;
    this.shapes = [];
    this.frame = 0;
  }

  // The picture's size, so that lines are as thick across as along.
  fit(width, height) {
    const scale = SIDE / Math.max(width, height);
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
  }

  // Take a map (rows * columns) to the model's pixels, and sort it once: a threshold is then a
  // look into the order, and a mask one comparison for each pixel.
  set(map, [rows, columns], pixels) {
    this.values = map && upsample(map, rows, columns, pixels, pixels);
    if (!map) return;
    if (!this.values.every(Number.isFinite)) throw new Error("this heat map holds NaN or infinity");
    this.pixels = pixels;
    this.sorted = this.values.slice().sort();
    this.mask = new Uint8Array(this.values.length);
    this.small.width = this.small.height = pixels;
    this.image = new ImageData(pixels, pixels);
    this.words = new Uint32Array(this.image.data.buffer);
    this.colours = null;
  }

  get range() {
    return [this.sorted[0], this.sorted[this.sorted.length - 1]];
  }

  // Threshold and count follow at once, the drawing with the next frame.
  draw({ quantile, style, colours }) {
    Object.assign(this, { style, wanted: colours });
    if (this.values) {
      this.threshold = quantileOf(this.sorted, quantile);
      above(this.values, this.threshold, this.mask);
      this.count = this.mask.reduce((sum, one) => sum + one, 0);
      Object.assign(this.canvas.dataset, { threshold: this.threshold, above: this.count });
    } else {
      delete this.canvas.dataset.threshold;
      delete this.canvas.dataset.above;
    }
    this.frame ||= requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.frame = 0;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.values && this.style !== "none") {
      if (this.style === "heat") this.tint();
      else for (let i = 0; i < this.mask.length; i++) this.words[i] = this.mask[i] ? 0 : SHADE;
      this.small.getContext("2d").putImageData(this.image, 0, 0);
      context.imageSmoothingEnabled = this.style === "heat";
      context.drawImage(this.small, 0, 0, this.canvas.width, this.canvas.height);
      this.trace(context, outline(this.mask, this.pixels, this.pixels), this.pixels, this.pixels, "#fff");
    }
    for (const { lines, height, width, dashed } of this.shapes) {
      context.setLineDash(dashed ? [8, 6] : []);
      this.trace(context, lines, height, width, "#ffb000");
      context.setLineDash([]);
    }
  }

  // Colours do not depend on the threshold; low values let the picture through.
  tint() {
    if (this.colours !== this.wanted) this.tinted = colourful(this.values, this.range, this.wanted);
    this.colours = this.wanted;
    this.words.set(this.tinted);
  }

  trace(context, lines, height, width, colour) {
    const x = this.canvas.width / width, y = this.canvas.height / height;
    context.beginPath();
    for (let i = 0; i < lines.length; i += 4) {
      context.moveTo(lines[i] * x, lines[i + 1] * y);
      context.lineTo(lines[i + 2] * x, lines[i + 3] * y);
    }
    for (const [style, thick] of [["rgb(0 0 0 / .65)", 5], [colour, 2]]) {
      Object.assign(context, { strokeStyle: style, lineWidth: thick, lineCap: "square" });
      context.stroke();
    }
  }
}

function colourful(values, [lowest, highest], name) {
  const colours = palette(name), [low, high] = ends(name, lowest, highest);
  const words = new Uint32Array(256), found = new Uint32Array(values.length);
  for (let i = 0; i < 256; i++) {
    const strength = name === "diverging" ? Math.abs(i - 127.5) / 127.5 : i / 255;
    const alpha = Math.round(255 * (0.25 + 0.5 * strength));
    words[i] = (alpha << 24) | (colours[3 * i + 2] << 16) | (colours[3 * i + 1] << 8) | colours[3 * i];
  }
  const scale = high > low ? 255 / (high - low) : 0;
  for (let i = 0; i < values.length; i++) found[i] = words[Math.round((values[i] - low) * scale)];
  return found;
}
