/** A camera's frames, one at a time. */

/**
 * Asks for a camera, the rear one of a phone, and shows what it sees in a <video>.
 *
 * Returns {frame(), stop()}: `frame` gives {width, height, rgba: bytes}, or null as long as there is
 * none. `ended` is called if the camera is taken away. Throws an Error of one line if there is none,
 * or its use was not allowed.
 */
export async function startCamera(video, ended) {
  const stream = await open();
  video.srcObject = stream;
  await video.play();
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  stream.getVideoTracks()[0].addEventListener("ended", ended);
  return {
    frame() {
      const { videoWidth: width, videoHeight: height } = video;
      if (width === 0) return null;
      if (canvas.width !== width || canvas.height !== height) {
        Object.assign(canvas, { width, height });
      }
      context.drawImage(video, 0, 0);
      return { width, height, rgba: context.getImageData(0, 0, width, height).data };
    },
    stop() {
      for (const one of stream.getTracks()) one.stop();
      video.srcObject = null;
    },
  };
}

async function open() {
  if (!navigator.mediaDevices) {
    throw new Error("A browser gives a camera to pages by HTTPS or from this computer only.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } },
    });
  } catch (error) {
    const reasons = {
      NotAllowedError: "its use was not allowed",
      NotFoundError: "there is none",
      NotReadableError: "another program has it",
    };
    throw new Error(`The camera cannot be used: ${reasons[error.name] ?? error.message}.`);
  }
}
