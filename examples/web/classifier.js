/** An exported .tflite file with its labels, run by LiteRT.js on the GPU or on the CPU. */

import { Tensor, getWebGpuDevice, loadAndCompile, loadLiteRt } from "@litertjs/core";
import { FlateErrorCode, strFromU8, unzipSync } from "fflate";

import { checkedPreprocess, defaultPreprocess } from "./preprocess.js";

const WASM = new URL("./node_modules/@litertjs/core/wasm/", import.meta.url).href;

/** Largest difference of a probability between GPU and CPU that counts as rounding. */
const TOLERANCE = 0.02;

/** What LiteRT's GPU engine logs, and does not throw, where its answers will be wrong. */
const LOGGED_ERROR = /^[EF]\d{4} |Shape mismatch/;

let runtime; // a promise: LiteRT.js can be loaded once
let gpuErrors = 0; // logged so far

/**
 * Opens a .tflite file that takes uint8 pixels and gives float32 probabilities.
 *
 * Returns {name, spec, run(pixels), close()}. `spec` is the file's classifier.json, {labels,
 * preprocess, threshold}: below the probability `threshold` the answer is "not sure". `run` takes a
 * Uint8Array of height × width × 3 and gives {probabilities, milliseconds, engine}: a Float32Array
 * of one probability a label, the time that the model took, and in words what it ran on.
 * Throws an Error of one line if the file is none, or if LiteRT.js cannot run it.
 */
export async function openModel(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (strFromU8(bytes.subarray(4, 8), true) !== "TFL3") {
    throw new Error(`Expected a .tflite model. Received: ${file.name}`);
  }
  runtime ??= load();
  await runtime;
  const cpu = await compileForCpu(bytes, file.name);
  try {
    const shape = checkedShape(cpu, file.name);
    const classes = cpu.getOutputDetails()[0].shape[1];
    const spec = readSpec(unpack(bytes), shape.slice(1, 3), classes, file.name);
    const errors = gpuErrors;
    const gpu = await compileForGpu(bytes);
    return { name: file.name, spec, ...runner(cpu, gpu, errors, shape) };
  } catch (error) {
    cpu.delete();
    throw error;
  }
}

async function load() {
  for (const level of ["warn", "error"]) {
    const log = console[level].bind(console);
    console[level] = (...words) => {
      if (LOGGED_ERROR.test(words[0])) gpuErrors++;
      log(...words);
    };
  }
  await loadLiteRt(WASM);
  getWebGpuDevice()?.addEventListener("uncapturederror", () => gpuErrors++);
}

async function compileForCpu(bytes, name) {
  try {
    return await loadAndCompile(bytes, { accelerator: "wasm" });
  } catch (error) {
    throw new Error(`${name} cannot be run by LiteRT.js: ${String(error.message).split("\n")[0]}`);
  }
}

/** The model for WebGPU; null without an adapter, or unless all of the model can run there. */
async function compileForGpu(bytes) {
  if (!getWebGpuDevice()) return null;
  try {
    const compiled = await loadAndCompile(bytes, { accelerator: "webgpu" });
    if (compiled.isFullyAccelerated) return compiled;
    compiled.delete();
  } catch (error) {
    console.info("WebGPU is not used:", error);
  }
  return null;
}

/**
 * Returns {run, close} of a model compiled for the CPU and, unless `gpu` is null, for the GPU. The
 * GPU answers if it logs no error after the first `errors` and its first answer is the CPU's.
 */
function runner(cpu, gpu, errors, shape) {
  let compared = false;
  let engine = gpu ? "WebGPU" : "the CPU";

  /** The GPU's answer; null if it is wrong. */
  async function runOnGpu(pixels) {
    try {
      const answer = await run(gpu, pixels, shape);
      if (!compared) {
        const { probabilities } = await run(cpu, pixels, shape);
        // written so that NaN is not near
        const near = (p, i) => Math.abs(p - answer.probabilities[i]) <= TOLERANCE;
        compared = probabilities.every(near);
      }
      return compared && gpuErrors === errors ? answer : null;
    } catch (error) {
      console.info("WebGPU is not used:", error);
      return null;
    }
  }

  return {
    async run(pixels) {
      const answer = gpu && gpuErrors === errors ? await runOnGpu(pixels) : null;
      if (gpu && !answer) {
        gpu.delete();
        gpu = null;
        engine = "the CPU, because WebGPU failed a check";
      }
      return { ...(answer ?? (await run(cpu, pixels, shape))), engine };
    },
    close() {
      cpu.delete();
      gpu?.delete();
    },
  };
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
  const start = performance.now();
  const input = new Tensor(pixels, shape);
  try {
    const [output] = await compiled.run(input);
    const probabilities = await output.data();
    output.delete();
    return { probabilities, milliseconds: performance.now() - start };
  } finally {
    input.delete();
  }
}
