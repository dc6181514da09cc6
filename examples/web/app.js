/** The page: takes a model and an image, however they come, and shows the answer. */

import { decode, defaultSpec, parseSpec, resizeAndCrop } from "./preprocess.js";

const TOP = 5;

const element = (id) => document.getElementById(id);
const percent = (probability) => `${(100 * probability).toFixed(1)} %`;

let model = null; // as `openModel` gives it, and its `spec`
let image = null; // as `decode` gives it

let work = Promise.resolve(); // one thing after the other

function take(files) {
  work = work.then(() => open(files));
}

async function open({ modelFiles = [], imageFile = null }) {
  element("main").setAttribute("aria-busy", "true");
  element("error").textContent = "";
  element("result").hidden = true;
  try {
    if (modelFiles.length > 0) {
      say("Opening the model …");
      model?.close();
      model = null; // an answer never comes from a model that is no longer named
      element("opened").textContent = "";
      model = await openWithSpec(modelFiles);
      element("opened").textContent =
        `${model.name}: ${model.size.join(" × ")} pixels, ${model.labels.length} classes.`;
    }
    if (imageFile) {
      say("Opening the image …");
      image = null;
      image = await decode(imageFile);
    }
    if (model && image) await answer();
    else say(model ? "Now choose an image." : "Now choose a model.");
  } catch (error) {
    say("");
    element("error").textContent = error.message;
  }
  element("main").setAttribute("aria-busy", "false");
}

async function openWithSpec(files) {
  const json = files.find(isJson);
  const file = files.find((other) => other !== json);
  if (!file) throw new Error(`Choose the .tflite file together with ${json.name}.`);
  const spec = json && parseSpec(await json.text(), json.name);
  const opened = await (await runtime()).openModel(file);
  opened.spec = spec ?? defaultSpec(opened.size);
  if (String(opened.spec.size) !== String(opened.size)) {
    opened.close();
    throw new Error(
      `${json.name} must be for the model's ${opened.size.join(" × ")} pixels. ` +
        `Received: ${opened.spec.size.join(" × ")}`,
    );
  }
  return opened;
}

async function runtime() {
  try {
    return await import("./classifier.js");
  } catch {
    throw new Error("LiteRT.js is not installed: run npm ci in this folder and reload the page.");
  }
}

async function answer() {
  say("Classifying …");
  const start = performance.now();
  const pixels = resizeAndCrop(image, model.spec);
  const prepared = performance.now();
  const probabilities = await model.run(pixels);
  const done = performance.now();

  const best = Array.from(probabilities.keys())
    .sort((a, b) => probabilities[b] - probabilities[a])
    .slice(0, TOP);
  show(pixels);
  element("answers").replaceChildren(...best.map((i) => row(model.labels[i], probabilities[i])));
  element("result").hidden = false;
  say(
    `${model.labels[best[0]]}, ${percent(probabilities[best[0]])}. The model took ` +
      `${(done - prepared).toFixed(1)} ms, preparing the image ` +
      `${(prepared - start).toFixed(1)} ms.`,
  );
}

function row(label, probability) {
  const item = document.createElement("li");
  const name = document.createElement("span");
  name.textContent = label;
  const value = document.createElement("data");
  value.value = probability;
  value.textContent = percent(probability);
  const bar = document.createElement("span");
  bar.className = "bar"; // a second look at the number, so nothing for a screen reader
  bar.ariaHidden = "true";
  bar.style.setProperty("--part", probability);
  item.append(name, value, bar);
  return item;
}

/** Draws the very pixels that the network was given. */
function show(pixels) {
  const [height, width] = model.size;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    image.data.set(pixels.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  const canvas = element("seen");
  Object.assign(canvas, { width, height });
  canvas.classList.toggle("coarse", width < 64); // few pixels are shown as they are, as squares
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function say(text) {
  element("status").textContent = text;
}

function isJson(file) {
  return file.name.toLowerCase().endsWith(".json");
}

function isModel(file) {
  return isJson(file) || file.name.toLowerCase().endsWith(".tflite");
}

/** Shows dropped files in the input where they could have been chosen. */
function name(input, files) {
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  input.files = transfer.files;
}

element("model").addEventListener("change", ({ target }) => {
  if (target.files.length > 0) take({ modelFiles: [...target.files] });
});
for (const id of ["image", "camera"]) {
  element(id).addEventListener("change", ({ target }) => {
    if (target.files.length > 0) take({ imageFile: target.files[0] });
  });
}

addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  const files = [...event.dataTransfer.files];
  const modelFiles = files.filter(isModel);
  const imageFile = files.find((file) => !isModel(file));
  if (modelFiles.length > 0) name(element("model"), modelFiles);
  if (imageFile) name(element("image"), [imageFile]);
  if (files.length > 0) take({ modelFiles, imageFile });
});
