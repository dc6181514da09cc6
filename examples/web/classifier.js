/** An exported .tflite file with its labels, run by LiteRT.js on the CPU. */

import { Tensor, loadAndCompile, loadLiteRt } from "@litertjs/core";
import { FlateErrorCode, strFromU8, unzipSync } from "fflate";

import { checkedPreprocess, defaultPreprocess } from "./preprocess.js";

const WASM = new URL("./node_modules/@litertjs/core/wasm/", import.meta.url).href;

let runtime; // a promise: LiteRT.js can be loaded once

/**
 * Opens a .tflite file that takes uint8 pixels and gives float32 probabilities.
 *
 * Returns {name, spec, run(pixels), close()}. `spec` is the file's classifier.json, {labels,
 * preprocess, threshold}: below the probability `threshold` the answer is "not sure". `run` takes a
 * Uint8Array of height × width × 3 and gives a Float32Array of one probability a label.
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
    return {
      name: file.name,
      spec: readSpec(unpack(bytes), shape.slice(1, 3), classes, file.name),
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
  const names = ["classifier.json", "labels.txt"];
  try {
    return unzipSync(bytes, { filter: (entry) => names.includes(entry.name) });
  } catch (error) {
    if (error.code !== FlateErrorCode.InvalidZipData) throw error;
    return {}; // somebody else's model, with nothing behind it
  }
}

/**
 * The specification in a file. For somebody else's file without one: its labels, or the classes'
 * numbers, and images prepared as for ImageNet.
 */
function readSpec(packed, size, classes, name) {
  if (!packed["classifier.json"]) {
    const found = packed["labels.txt"] ? strFromU8(packed["labels.txt"]).trimEnd().split("\n") : [];
    const numbers = Array.from({ length: classes }, (_, i) => String(i));
    const labels = found.length === classes ? found : numbers;
    return { labels, preprocess: defaultPreprocess(size), threshold: 0 };
  }
  const text = strFromU8(packed["classifier.json"]);
  let spec;
  try {
    spec = JSON.parse(text);
  } catch {
    // refused below
  }
  const { labels, preprocess, threshold } = spec ?? {};
  const probability = threshold === null || (threshold >= 0 && threshold <= 1);
  if (!Array.isArray(labels) || !probability) {
    throw new Error(`Expected a classifier.json that export wrote in ${name}. Received: ${text}`);
  }
  if (labels.length !== classes) {
    throw new Error(
      `The labels in ${name} must be as many as its classes, ${classes}. ` +
        `Received: ${labels.length}`,
    );
  }
  return {
    labels,
    preprocess: checkedPreprocess(preprocess, size, name),
    threshold: threshold ?? 0,
  };
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
