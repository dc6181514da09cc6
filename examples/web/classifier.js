/** An exported .tflite file with its labels, run by LiteRT.js on the CPU. */

import { Tensor, loadAndCompile, loadLiteRt } from "@litertjs/core";
import { FlateErrorCode, strFromU8, unzipSync } from "fflate";

const WASM = new URL("./node_modules/@litertjs/core/wasm/", import.meta.url).href;

let runtime; // a promise: LiteRT.js can be loaded once

/**
 * Opens a .tflite file that takes uint8 pixels and gives float32 probabilities.
 *
 * Returns {name, size: [height, width], labels, run(pixels), close()}; `run` takes a Uint8Array
 * of height × width × 3 and gives a Float32Array of one probability a label.
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
      size: [shape[1], shape[2]],
      labels: readLabels(bytes, classes, file.name),
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

/** The names in the zip archive behind the model; the classes' numbers if there is none. */
function readLabels(bytes, classes, name) {
  let packed;
  try {
    packed = unzipSync(bytes, { filter: (entry) => entry.name === "labels.txt" })["labels.txt"];
  } catch (error) {
    if (error.code !== FlateErrorCode.InvalidZipData) throw error;
  }
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
