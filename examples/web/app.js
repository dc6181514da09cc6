/** The page: takes a model, and images from files or a camera, and shows the answers. */

import { startCamera } from "./camera.js";
import { decode, resizeAndCrop } from "./preprocess.js";

const TOP = 5;
const FRAMES = 20; // of which the rate is the mean

const element = (id) => document.getElementById(id);
const percent = (probability) => `${(100 * probability).toFixed(1)} %`;

let model = null; // as `openModel` gives it
let image = null; // as `decode` gives it
let camera = null; // as `startCamera` gives it, while it runs

let work = Promise.resolve(); // one thing after the other

function take(files) {
  work = work.then(() => open(files));
}

async function open({ modelFile = null, imageFile = null }) {
  element("main").setAttribute("aria-busy", "true");
  element("error").textContent = "";
  element("result").hidden = true;
  try {
    if (modelFile) {
      say("Opening the model …");
      model?.close();
      model = null; // an answer never comes from a model that is no longer named
      element("opened").textContent = "";
      model = await (await runtime()).openModel(modelFile);
      element("opened").textContent =
        `${model.name}: ${model.spec.preprocess.size.join(" × ")} pixels, ${model.spec.labels.length} classes.`;
    }
    if (imageFile) {
      stopCamera();
      say("Opening the image …");
      image = null;
      image = await decode(imageFile);
    }
    if (camera) say("");
    else if (model && image) await answerImage();
    else say(model ? "Now choose an image." : "Now choose a model.");
  } catch (error) {
    say("");
    element("error").textContent = error.message;
  }
  element("main").setAttribute("aria-busy", "false");
}

async function runtime() {
  try {
    return await import("./classifier.js");
  } catch {
    throw new Error("LiteRT.js is not installed: run npm ci in this folder and reload the page.");
  }
}

async function answerImage() {
  say("Classifying …");
  const { best, preparing, milliseconds, engine } = await answer(image);
  say(
    `${best}. Preparing the image took ${preparing.toFixed(1)} ms, ` +
      `the model ${milliseconds.toFixed(1)} ms on ${engine}.`,
  );
}

/** Shows what the model says of an image; gives that in words, and what took how long. */
async function answer(image) {
  const start = performance.now();
  const pixels = resizeAndCrop(image, model.spec.preprocess);
  const preparing = performance.now() - start;
  const { probabilities, milliseconds, engine } = await model.run(pixels);

  const best = Array.from(probabilities.keys())
    .sort((a, b) => probabilities[b] - probabilities[a])
    .slice(0, TOP);
  show(pixels);
  element("answers").replaceChildren(...best.map((i) => row(model.spec.labels[i], probabilities[i])));
  element("result").hidden = false;
  const highest = `${model.spec.labels[best[0]]}, ${percent(probabilities[best[0]])}`;
  const first =
    probabilities[best[0]] < model.spec.threshold ? `Not sure (best: ${highest})` : highest;
  return { best: first, preparing, milliseconds, engine };
}

/** Starts the camera, whose frames are then answered one after another, until `stopCamera`. */
async function watch() {
  element("error").textContent = "";
  try {
    if (!model) throw new Error("Choose a model first.");
    camera = await startCamera(element("camera"), stopCamera);
  } catch (error) {
    element("error").textContent = error.message;
    return;
  }
  image = null;
  setRunning(true);
  const times = []; // of the last answers
  const next = () => {
    if (!camera) return;
    work = work.then(() => answerFrame(times)).then(() => requestAnimationFrame(next));
  };
  next();
}

async function answerFrame(times) {
  const frame = camera?.frame();
  if (!frame || !model) return;
  try {
    const { best, milliseconds, engine } = await answer(frame);
    times.push(performance.now());
    if (times.length > FRAMES) times.shift();
    const rate = (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
    const speed = times.length > 1 ? `${rate.toFixed(1)} frames a second, the` : "The";
    if (camera) say(`${best}. ${speed} model ${milliseconds.toFixed(1)} ms on ${engine}.`);
  } catch (error) {
    element("error").textContent = error.message;
    stopCamera();
  }
}

function stopCamera() {
  if (!camera) return;
  camera.stop();
  camera = null;
  setRunning(false);
  say("The camera is stopped.");
}

function setRunning(running) {
  element("start").hidden = running;
  element("stop").hidden = !running;
  element("camera").hidden = !running;
  // a screen reader would read out every frame
  element("status").setAttribute("aria-live", running ? "off" : "polite");
  element(running ? "stop" : "start").focus();
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
  const [height, width] = model.spec.preprocess.size;
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

function isModel(file) {
  return file.name.toLowerCase().endsWith(".tflite");
}

/** Shows a dropped file in the input where it could have been chosen. */
function name(input, file) {
  const transfer = new DataTransfer();
  transfer.items.add(file);
  input.files = transfer.files;
}

element("model").addEventListener("change", ({ target }) => {
  if (target.files.length > 0) take({ modelFile: target.files[0] });
});
for (const id of ["image", "photo"]) {
  element(id).addEventListener("change", ({ target }) => {
    if (target.files.length > 0) take({ imageFile: target.files[0] });
  });
}
element("start").addEventListener("click", () => {
  work = work.then(watch);
});
element("stop").addEventListener("click", stopCamera);

addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  const files = [...event.dataTransfer.files];
  const modelFile = files.find(isModel);
  const imageFile = files.find((file) => !isModel(file));
  if (modelFile) name(element("model"), modelFile);
  if (imageFile) name(element("image"), imageFile);
  if (files.length > 0) take({ modelFile, imageFile });
});
