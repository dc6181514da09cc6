/**
 * From an image file to the pixels that the network takes: what `Preprocess` in
 * keras_resnet18/preprocess.py does, to the same pixels.
 *
 * A canvas could resize too, but each browser does it in its own way, and none as the network was
 * trained. Hence the filter here: that of TensorFlow's ScaleAndTranslate, in float32 and in its order
 * of summation.
 */

const f32 = Math.fround;

/** How images are prepared for a .tflite file that has no classifier.json in it. */
const DEFAULTS = { crop_ratio: 0.875, interpolation: "bilinear", fit: "crop" };

/** Filters by interpolation: how far they reach, in pixels, and their weight at a distance. */
const KERNELS = {
  bilinear: { reach: 1, weight: (x) => (x < 1 ? f32(1 - x) : 0) },
  // R. G. Keys, Cubic convolution interpolation for digital image processing, 1981
  bicubic: {
    reach: 2,
    weight: (x) => {
      if (x >= 2) return 0;
      if (x >= 1) return f32(f32(f32(f32(f32(f32(-0.5 * x) + 2.5) * x) - 4) * x) + 2);
      return f32(f32(f32(f32(f32(1.5 * x) - 2.5) * x) * x) + 1);
    },
  },
};

/** How images are prepared for a model that takes `size`, [height, width]. */
export function defaultPreprocess(size) {
  return { ...DEFAULTS, size };
}

/** The `preprocess` of a classifier.json, for a model of `size`. Throws an Error of one line. */
export function checkedPreprocess(preprocess, modelSize, name) {
  const { size, crop_ratio, interpolation, fit } = preprocess ?? {};
  const whole = (side) => Number.isInteger(side) && side > 0;
  if (
    !(Array.isArray(size) && size.length === 2 && size.every(whole)) ||
    !(crop_ratio > 0 && crop_ratio <= 1) ||
    !Object.hasOwn(KERNELS, interpolation) ||
    !["crop", "pad", "squash"].includes(fit)
  ) {
    throw new Error(
      `Expected preprocessing that export wrote in ${name}. ` +
        `Received: ${JSON.stringify(preprocess)}`,
    );
  }
  if (String(size) !== String(modelSize)) {
    throw new Error(
      `The preprocessing in ${name} must be for the model's ${modelSize.join(" × ")} pixels. ` +
        `Received: ${size.join(" × ")}`,
    );
  }
  return { size, crop_ratio, interpolation, fit };
}

/**
 * Decodes an image to the way a person sees it: upright, transparency over white, and without
 * colour management, since the network was trained without.
 *
 * Returns {width, height, rgba: bytes}. Throws an Error of one line if the browser cannot read it.
 */
export async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
    });
  } catch {
    throw new Error(`Expected an image that this browser can open. Received: ${file.name}`);
  }
  const { width, height } = bitmap;
  const rgba = new Uint8ClampedArray(4 * width * height);
  // In bands, because phones limit the area of a canvas to less than their camera's.
  const band = Math.min(height, 512);
  const context = new OffscreenCanvas(width, band).getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += band) {
    const rows = Math.min(band, height - top);
    context.fillStyle = "white";
    context.fillRect(0, 0, width, band);
    context.drawImage(bitmap, 0, -top);
    rgba.set(context.getImageData(0, 0, width, rows).data, 4 * width * top);
  }
  bitmap.close();
  return { width, height, rgba };
}

/**
 * Resizes a decoded image to `size / crop_ratio` as `fit` says and cuts out its middle.
 *
 * Returns RGB bytes in a Uint8Array, height × width × 3 as `spec.size` says; bars are black.
 */
export function resizeAndCrop({ width, height, rgba }, spec) {
  const [cropHeight, cropWidth] = spec.size;
  const [fullHeight, fullWidth] = spec.size.map((n) => Math.floor(n / spec.crop_ratio + 1e-6));
  const choose = { crop: Math.max, pad: Math.min, squash: (_, full) => full }[spec.fit];
  const newHeight = Math.max(choose(Math.floor((fullWidth * height) / width), fullHeight), 1);
  const newWidth = Math.max(choose(Math.floor((fullHeight * width) / height), fullWidth), 1);
  const top = half(newHeight - cropHeight);
  const rows = taps(height, newHeight, top, cropHeight, spec);
  const columns = taps(width, newWidth, half(newWidth - cropWidth), cropWidth, spec);

  // First between rows, then between columns; of the columns only those that the crop needs.
  const left = columns.find(({ weights }) => weights.length).first;
  const right = Math.max(...columns.map(({ first, weights }) => first + weights.length));
  const line = new Float32Array(3 * (right - left));
  const pixels = new Uint8ClampedArray(3 * cropHeight * cropWidth); // rounds half to even
  let out = 0;
  for (const row of rows) {
    line.fill(0);
    row.weights.forEach((weight, k) => {
      let at = 4 * ((row.first + k) * width + left);
      for (let i = 0; i < line.length; i += 3, at += 4) {
        line[i] += f32(weight * rgba[at]);
        line[i + 1] += f32(weight * rgba[at + 1]);
        line[i + 2] += f32(weight * rgba[at + 2]);
      }
    });
    for (const column of columns) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        let at = 3 * (column.first - left) + channel;
        for (const weight of column.weights) {
          sum = f32(sum + f32(weight * line[at]));
          at += 3;
        }
        pixels[out++] = spec.interpolation === "bilinear" ? Math.floor(f32(sum + 0.5)) : sum;
      }
    }
  }
  return new Uint8Array(pixels.buffer);
}

/** Half of a margin, .5 rounded to even: where the crop begins. */
function half(margin) {
  return Math.floor((margin + Math.floor((margin - 4 * Math.floor(margin / 4)) / 3)) / 2);
}

/**
 * Along one axis, which old pixels make each of the `count` new ones from `start` on, and with
 * which weights: a list of {first, weights}, without weights where a bar is.
 */
function taps(oldSize, newSize, start, count, { interpolation }) {
  const step = f32(1 / f32(newSize / oldSize)); // two roundings of one number, as TensorFlow has it
  const kernel = KERNELS[interpolation];
  const scale = Math.max(step, 1); // a wider filter for a smaller image
  const reach = f32(kernel.reach * scale);
  const within = (i) => Math.min(Math.max(i, 0), oldSize - 1);
  return Array.from({ length: count }, (_, i) => {
    if (start + i < 0 || start + i >= newSize) return { first: 0, weights: [] };
    const centre = f32(f32((i + 0.5) * step) + f32(start * step));
    const first = within(Math.ceil(f32(f32(centre - reach) - 0.5)));
    const last = within(Math.floor(f32(f32(centre + reach) - 0.5)));
    const weights = new Float32Array(last - first + 1);
    let total = 0;
    for (let k = 0; k < weights.length; k++) {
      const distance = f32(f32(first + k + 0.5) - centre);
      weights[k] = kernel.weight(Math.abs(f32(distance * f32(1 / scale))));
      total = f32(total + weights[k]);
    }
    return { first, weights: weights.map((weight) => weight * f32(1 / total)) };
  });
}
