// Classifies pictures by a .tflite file, in any page that has LiteRT.js (npm's @litertjs/core) beside this file.
// How to build it into a page of your own: docs/browser.md.
import { loadAndCompile, loadLiteRt, supportsFeature, Tensor } from "@litertjs/core";

// As many as a model can have. LiteRT.js needs a page that is cross-origin isolated for more than one, which browsers
// grant to https and localhost with the headers COOP and COEP alone, and a processor and browser with relaxed SIMD.
export const THREADS =
  globalThis.crossOriginIsolated && (await supportsFeature("relaxedSimd")) ? navigator.hardwareConcurrency : 1;

await loadLiteRt(new URL("node_modules/@litertjs/core/wasm/", import.meta.url).href, { threads: THREADS > 1 });

// Pillow's precision of weights, and the rows of a picture that a canvas holds at a time: phones have pictures that are
// larger than their canvases may be.
const BITS = 22;
const STRIP = 256;

// A model, of an address or the bytes of a .tflite file. accelerator: "wasm", which is the CPU, or "webgpu". mean, std:
// what pixels of 0..255 have subtracted, and are divided by, for all colours or each; not in files of this project.
export async function load(file, { accelerator = "wasm", threads = 1, mean = [0], std = [1] } = {}) {
  const model = await loadAndCompile(file, { accelerator, cpuOptions: { numThreads: Math.min(threads, THREADS) } });
  if (accelerator === "webgpu" && !model.isFullyAccelerated) {
    model.delete();
    throw new Error("the GPU does not take all of this file");
  }
  const [{ shape, dtype }] = model.getInputDetails();
  const [, height, width] = shape;

  // The pixels that the model wants of an ImageBitmap or a canvas.
  const pixels = (image) => resized(image, width, height);
  const scaled = (value, place) => (value - mean[place % mean.length]) / std[place % std.length];
  const tensor = (values) =>
    new Tensor(dtype === "uint8" ? new Uint8Array(values) : Float32Array.from(values, scaled), shape);

  // The scores of the classes, as the file stores them, for a tensor of pixels.
  async function run(input) {
    const [output] = await model.run(input);
    const scores = await output.data();
    output.delete();
    return scores;
  }

  // The same for an ImageBitmap or a canvas.
  async function classify(image) {
    const input = tensor(pixels(image));
    const scores = await run(input);
    input.delete();
    return scores;
  }

  return { height, width, pixels, tensor, run, classify, delete: () => model.delete() };
}

// RGB of `image` on white, resized to width x height as Pillow does it (Resample.c, bilinear), which made what the model
// was trained and evaluated on: to the bit, but that of pictures more than twice as high as wide Pillow makes columns
// shorter before it does rows, and some values differ by 1. A canvas by itself leaves out most pixels of a photo.
export function resized(image, width, height) {
  const columns = triangles(image.width, width);
  const rows = triangles(image.height, height);
  const canvas = new OffscreenCanvas(image.width, Math.min(STRIP, image.height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";

  const narrow = new Uint8ClampedArray(image.height * width * 3);
  for (let top = 0, place = 0; top < image.height; top += STRIP) {
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, -top);
    const { data } = context.getImageData(0, 0, image.width, Math.min(STRIP, image.height - top));
    for (let row = 0; row < data.length; row += 4 * image.width)
      for (const { start, weights } of columns)
        for (let colour = 0; colour < 3; colour++)
          narrow[place++] = weighted(data, row + 4 * start + colour, 4, weights);
  }
  const found = new Uint8ClampedArray(height * width * 3);
  let place = 0;
  for (const { start, weights } of rows)
    for (let column = 0; column < 3 * width; column++)
      found[place++] = weighted(narrow, 3 * width * start + column, 3 * width, weights);
  return found;
}

// For each of `to` pixels the first of `from` that it is made of, and the weights of all: a triangle, in integers.
function triangles(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const heights = Array.from({ length: end - start }, (_, number) =>
      Math.max(0, 1 - Math.abs((start + number - centre + 0.5) * (1 / support))),
    );
    const sum = heights.reduce((one, other) => one + other);
    return { start, weights: Int32Array.from(heights, (each) => Math.trunc(0.5 + (each / sum) * 2 ** BITS)) };
  });
}

function weighted(values, start, step, weights) {
  let sum = 2 ** (BITS - 1);
  for (let number = 0, place = start; number < weights.length; number++, place += step)
    sum += values[place] * weights[number];
  return sum >> BITS;
}
