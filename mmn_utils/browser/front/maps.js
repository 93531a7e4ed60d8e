// Numbers on the picture: maps scaled up, quantiles, masks, run lengths; float32, as torch has them.

const f32 = Math.fround;

// For every pixel of an axis the two cells that it lies between, and their weights; as torch's
// bilinear interpolation with align_corners=False.
function axis(cells, pixels) {
  const low = new Int32Array(pixels), high = new Int32Array(pixels);
  const before = new Float32Array(pixels), after = new Float32Array(pixels);
  const scale = f32(cells / pixels);
  for (let i = 0; i < pixels; i++) {
    const place = cells === pixels ? i : Math.max(0, f32(scale * (i + 0.5) - 0.5));
    low[i] = Math.min(Math.floor(place), cells - 1);
    high[i] = Math.min(low[i] + 1, cells - 1);
    after[i] = Math.min(Math.max(f32(place - low[i]), 0), 1);
    before[i] = f32(1 - after[i]);
  }
  return { low, high, before, after };
}

// One product is rounded by itself and the other with the sum, as processors do that multiply
// and add at once; so the last bit is that of torch on most of them.
function blend(a, u, b, v) {
  return f32(a * u + f32(b * v));
}

// Scale a map (rows * columns numbers) to height x width, row by row: Float32Array.
export function upsample(map, rows, columns, height, width) {
  const y = axis(rows, height), x = axis(columns, width);
  const values = Float32Array.from(map), found = new Float32Array(height * width);
  for (let i = 0; i < height; i++) {
    const top = y.low[i] * columns, bottom = y.high[i] * columns;
    for (let j = 0; j < width; j++) {
      const a = x.low[j], b = x.high[j], u = x.before[j], v = x.after[j];
      const upper = blend(values[top + a], u, values[top + b], v);
      const lower = blend(values[bottom + a], u, values[bottom + b], v);
      found[i * width + j] = blend(upper, y.before[i], lower, y.after[i]);
    }
  }
  return found;
}

// The quantile of values in order, linear between neighbours.
export function quantileOf(sorted, quantile) {
  const place = Math.round(quantile * (sorted.length - 1) * 1e9) / 1e9;
  const below = Math.floor(place), low = sorted[below];
  if (place === below) return low;
  return f32(low + f32(f32(sorted[below + 1] - low) * f32(place - below)));
}

// 1 where a value lies strictly above the threshold; into `mask` where one is given.
export function above(values, threshold, mask = new Uint8Array(values.length)) {
  for (let i = 0; i < values.length; i++) mask[i] = values[i] > threshold ? 1 : 0;
  return mask;
}

export function meanOf(maps) {
  const total = new Float64Array(maps[0].length);
  for (const map of maps) for (let i = 0; i < total.length; i++) total[i] += map[i];
  return total.map((value) => value / maps.length);
}

// Decode COCO's compressed run lengths, which go down the columns: Uint8Array, row by row.
export function decodeRuns(text, height, width) {
  const runs = [];
  for (let p = 0; p < text.length; ) {
    let run = 0, shift = 0, code;
    do {
      code = text.charCodeAt(p++) - 48;
      run |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) run |= -1 << shift;
    runs.push(runs.length > 2 ? run + runs[runs.length - 2] : run);
  }
  const mask = new Uint8Array(height * width);
  let place = 0;
  runs.forEach((run, i) => {
    for (const end = place + run; place < end; place++) {
      if (i % 2) mask[(place % height) * width + Math.floor(place / height)] = 1;
    }
  });
  return mask;
}

// The edges between a mask's pixels and the others, as [x0, y0, x1, y1, ...] in pixels.
export function outline(mask, height, width) {
  const lines = [];
  const at = (y, x) => (y < 0 || x < 0 || y >= height || x >= width ? 0 : mask[y * width + x]);
  for (let y = 0; y <= height; y++) {
    for (let x = 0, start = -1; x <= width; x++) {
      const edge = x < width && at(y - 1, x) !== at(y, x);
      if (edge && start < 0) start = x;
      if (!edge && start >= 0) lines.push(start, y, x, y), (start = -1);
    }
  }
  for (let x = 0; x <= width; x++) {
    for (let y = 0, start = -1; y <= height; y++) {
      const edge = y < height && at(y, x - 1) !== at(y, x);
      if (edge && start < 0) start = y;
      if (!edge && start >= 0) lines.push(x, start, x, y), (start = -1);
    }
  }
  return lines;
}
