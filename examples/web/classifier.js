/** An exported .tflite file with its labels, run by LiteRT.js on the CPU. */

import { Tensor, loadAndCompile, loadLiteRt } from "@litertjs/core";
import { FlateErrorCode, strFromU8, unzipSync } from "fflate";

import { defaultSpec, parseSpec } from "./preprocess.js";

const WASM = new URL("./node_modules/@litertjs/core/wasm/", import.meta.url).href;

let runtime; // a promise: LiteRT.js can be loaded once

/**
 * Opens a .tflite file that takes uint8 pixels and gives float32 probabilities.
 *
 * Returns {name, labels, spec, threshold, run(pixels), close()}; `spec` is how images are prepared,
 * below the probability `threshold` an image is none of the classes, and `run` takes a Uint8Array of
 * height × width × 3 and gives a Float32Array of one probability a label.
 * Throws an Error of one line if the file is none, or if LiteRT.js cannot run it.
 */
export async function openModel(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (strFromU8(bytes.subarray(4, 8), true) !== "TFL3") {
    throw new Error(`Expected a .tflite model. Received: ${file.name}`);
  }
  const compiled = await compile(bytes, file.name);
  try {
    const shape = checkedShape(compiled, file.name);
    const classes = compiled.getOutputDetails()[0].shape[1];
    const packed = unpack(bytes);
    return {
      name: file.name,
      labels: readLabels(packed["labels.txt"], classes, file.name),
      spec: readSpec(packed["preprocess.json"], shape.slice(1, 3), file.name),
      threshold: readThreshold(packed["threshold.json"], file.name),
      run: (pixels) => run(compiled, pixels, shape),
      close: () => compiled.delete(),
    };
  } catch (error) {
    compiled.delete();
    throw error;
  }
}

async function compile(bytes, name) {
  runtime ??= loadLiteRt(WASM);
  await runtime;
  try {
    return await loadAndCompile(bytes, { accelerator: "wasm" });
  } catch (error) {
    throw new Error(`${name} cannot be run by LiteRT.js: ${String(error.message).split("\n")[0]}`);
  }
}

function checkedShape(compiled, name) {
  const inputs = compiled.getInputDetails();
  const outputs = compiled.getOutputDetails();
  const said = (tensors) =>
    tensors.map(({ dtype, shape }) => `${dtype} (${shape.join(", ")})`).join(" and ");
  if (
    !/^uint8 \(1, \d+, \d+, 3\)$/.test(said(inputs)) ||
    !/^float32 \(1, \d+\)$/.test(said(outputs))
  ) {
    throw new Error(
      `${name} must take uint8 (1, height, width, 3) and give float32 (1, classes). ` +
        `Received: ${said(inputs)} and ${said(outputs)}`,
    );
  }
  return Array.from(inputs[0].shape);
}

/** Files in the zip archive behind the model, bytes by name. */
function unpack(bytes) {
  const names = ["labels.txt", "preprocess.json", "threshold.json"];
  try {
    return unzipSync(bytes, { filter: (entry) => names.includes(entry.name) });
  } catch (error) {
    if (error.code !== FlateErrorCode.InvalidZipData) throw error;
    return {}; // somebody else's model, with nothing behind it
  }
}

function readSpec(packed, size, name) {
  if (!packed) return defaultSpec(size);
  const spec = parseSpec(strFromU8(packed), name);
  if (String(spec.size) !== String(size)) {
    throw new Error(
      `The preprocess.json in ${name} must be for the model's ${size.join(" × ")} pixels. ` +
        `Received: ${spec.size.join(" × ")}`,
    );
  }
  return spec;
}

/** The highest probability below which an image is none of the classes; 0 without a threshold. */
function readThreshold(packed, name) {
  if (!packed) return 0;
  const text = strFromU8(packed);
  let threshold;
  try {
    threshold = JSON.parse(text).score_threshold;
  } catch {
    // refused below
  }
  if (!(threshold >= 0 && threshold <= 1)) {
    throw new Error(`The threshold.json in ${name} must have a probability. Received: ${text}`);
  }
  return threshold;
}

/** The classes' names, or their numbers if there are none. */
function readLabels(packed, classes, name) {
  if (!packed) return Array.from({ length: classes }, (_, i) => String(i));
  const labels = strFromU8(packed).split("\n").slice(0, -1);
  if (labels.length !== classes) {
    throw new Error(
      `The labels in ${name} must be as many as its classes, ${classes}. ` +
        `Received: ${labels.length}`,
    );
  }
  return labels;
}

async function run(compiled, pixels, shape) {
  const input = new Tensor(pixels, shape);
  try {
    const [output] = await compiled.run(input);
    const probabilities = output.toTypedArray().slice(); // out of memory that is reused
    output.delete();
    return probabilities;
  } finally {
    input.delete();
  }
}
