// The camera: one picture, or a stream of pictures while it runs.
import { el } from "./answers.js";

const get = (id) => document.getElementById(id);
const LIVE_WIDTH = 640; // pixels of a frame that is read live

/** failed: (error) -> void. taken: (file) -> void. live: (next) -> Promise, see app.js. */
export function setUp({ failed, taken, live }) {
  let stream = null;
  let running = false;
  const eye = el("video", { muted: true, playsInline: true }); // shows nothing; a video in a closed dialog may stand still

  function release() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = get("video").srcObject = eye.srcObject = null;
  }

  async function picture(video, width, type) {
    const canvas = el("canvas", { width: Math.round(width), height: Math.round((width * video.videoHeight) / video.videoWidth) });
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.92));
    return new File([blob], `camera.${type.slice(6)}`, { type });
  }

  function stop() {
    running = false;
  }

  get("camera").addEventListener("click", async () => {
    if (running) return stop();
    try {
      // not there at all where the page came neither over https nor from this machine
      if (!navigator.mediaDevices) throw new Error("browsers lend the camera only to pages of this machine or over https");
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 } } });
    } catch (error) {
      return failed(new Error(`The camera cannot be used: ${error.message}.`));
    }
    get("video").srcObject = stream;
    await get("video").play();
    get("camera-dialog").showModal();
  });
  get("camera-dialog").addEventListener("close", () => running || release());
  get("leave").addEventListener("click", () => get("camera-dialog").close());
  get("shoot").addEventListener("click", async () => {
    const file = await picture(get("video"), get("video").videoWidth, "image/png");
    get("camera-dialog").close();
    taken(file);
  });
  get("live").addEventListener("click", async () => {
    running = true;
    get("camera-dialog").close();
    get("camera").textContent = "Stop the camera";
    try {
      eye.srcObject = stream;
      await eye.play();
      await live(async () => {
        await new Promise(requestAnimationFrame);
        const ended = stream.getVideoTracks().every((track) => track.readyState === "ended");
        return running && !ended ? picture(eye, Math.min(LIVE_WIDTH, eye.videoWidth), "image/jpeg") : null;
      });
    } catch (error) {
      failed(new Error(`The camera stopped: ${error.message}.`));
    } finally {
      running = false;
      release();
      get("camera").textContent = "Use the camera";
    }
  });
  return { stop };
}
