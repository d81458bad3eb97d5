// Draws pictures with a sampler that `vfn export --format onnx --steps N` wrote, in the browser.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const COUNT = 10; // pictures beside each other
const [CHANNELS, HEIGHT, WIDTH] = [1, 8, 8]; // of the digits; the exporter's line and metadata say it
const CLASSES = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need a page that is isolated from others

// Normal numbers of a seed: mulberry32, then Box and Muller.
function normal(seed, count) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return Float32Array.from({ length: count }, () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

// Pictures of a class (counting from 1), and the noise that they came from.
export async function draw(session, label, guidance, seed) {
  const noise = normal(seed, COUNT * CHANNELS * HEIGHT * WIDTH);
  const found = await session.run({
    noise: new ort.Tensor("float32", noise, [COUNT, CHANNELS, HEIGHT, WIDTH]),
    labels: new ort.Tensor("int64", new BigInt64Array(COUNT).fill(BigInt(label)), [COUNT]),
    guidance: new ort.Tensor("float32", new Float32Array(COUNT).fill(guidance), [COUNT]),
  });
  return { noise, pictures: found.pictures.data };
}

// Grey levels of -1..1 side by side.
function show(pictures) {
  const canvas = document.getElementById("pictures");
  [canvas.width, canvas.height] = [COUNT * WIDTH, HEIGHT];
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < COUNT; i++)
    for (let y = 0; y < HEIGHT; y++)
      for (let x = 0; x < WIDTH; x++) {
        const grey = 127.5 * (1 + pictures[(i * HEIGHT + y) * WIDTH + x]);
        image.data.set([grey, grey, grey, 255], 4 * (y * canvas.width + i * WIDTH + x));
      }
  context.putImageData(image, 0, 0);
}

async function main() {
  const [label, guidance, seed, weight, status] =
    ["label", "guidance", "seed", "weight", "status"].map((id) => document.getElementById(id));
  label.append(...CLASSES.map((name, i) => new Option(name, i + 1)));
  const session = await ort.InferenceSession.create("draw.onnx", { executionProviders: ["wasm"] });
  let busy = Promise.resolve();
  const update = () => {
    busy = busy.then(async () => {
      weight.value = guidance.value;
      const begun = performance.now();
      window.drawn = await draw(session, Number(label.value), Number(guidance.value),
                                Number(seed.value));
      show(window.drawn.pictures);
      status.textContent = `${COUNT} pictures in ${Math.round(performance.now() - begun)} ms`;
    });
    return busy;
  };
  [label, guidance, seed].forEach((input) => input.addEventListener("input", update));
  await update();
}

main().catch((error) => { document.getElementById("status").textContent = `${error}`; });
