// The page: pictures in, classes and times out. What names classes or files is shown as text alone.

const RUNS = 100;
const WARM_UP_RUNS = 10;
const BEST = 5;
// Milliseconds: of a camera between two pictures, and of timing until the page may answer.
const GLANCE = 200;
const BREATH = 50;
// Pixels of the longer side of the picture that is shown, and the side up to which pixels are shown as squares.
const SHOWN = 1024;
const SMALL = 100;
// A module with an instruction of SIMD, without which LiteRT.js does not run.
const SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
);
// What the names of DOMExceptions mean when a camera is asked for.
const REFUSALS = {
  NotAllowedError: "The camera was refused. Allow it for this page in the browser, and try again.",
  NotFoundError: "This device has no camera that the page can use.",
  NotReadableError: "The camera is in use by another program.",
};

const at = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

// What goes wrong is told on the page.
function tell(text) {
  at("alert").textContent = text;
  at("alert").hidden = !text;
  if (text) at("alert").scrollIntoView({ block: "nearest" });
}
addEventListener("error", ({ message }) => tell(`The page failed: ${message}`));
addEventListener("unhandledrejection", ({ reason }) => tell(`The page failed: ${reason?.message ?? reason}`));

// One job after another: a model runs once at a time.
let last = Promise.resolve();
const inTurn = (job) => (last = last.catch(() => {}).then(job));

// The model

let about, bytes, library, model, way;

async function start() {
  showNone();
  if (!globalThis.WebAssembly?.validate(SIMD))
    return tell("This browser has no WebAssembly SIMD, which LiteRT.js needs: take a newer one.");
  const fetched = async (name) => {
    const response = await fetch(name);
    if (!response.ok) throw new Error(`${name}: ${response.status}`);
    return response;
  };
  try {
    about = await (await fetched("model.json")).json();
    showFacts();
    bytes = new Uint8Array(await (await fetched("model.tflite")).arrayBuffer());
    library = await import("./classify.js");
    await offerWays();
    await inTurn(() => use(JSON.parse(at("runs-on").value)));
  } catch (error) {
    return tell(`The model could not be loaded: ${error.message}`);
  }
  showFacts(model);
  at("runs-on").disabled = at("time").disabled = false;
  if (picture) await classify(picture);
}

// What the model can run on, the first of which is taken.
async function offerWays() {
  const counts = [1, 2, 4, 8].filter((count) => count <= library.THREADS);
  const ways = counts.map((threads) => ({ accelerator: "wasm", threads }));
  // LiteRT.js has no right code for integer activations on the GPU.
  if (!about.integers && (await navigator.gpu?.requestAdapter())) ways.push({ accelerator: "webgpu" });
  at("runs-on").append(...ways.map((each) => new Option(named(each), JSON.stringify(each))));
  const cores = navigator.hardwareConcurrency;
  if (!isSecureContext)
    note("threads-note", "One thread and no GPU: browsers give more to https and localhost alone.");
  else if (library.THREADS === 1 && cores > 1)
    note("threads-note", "One thread: this browser lacks what LiteRT.js needs for more (relaxed SIMD, isolation).");
  const { model = "", platform = "" } =
    (await navigator.userAgentData?.getHighEntropyValues(["model"]).catch(() => {})) ?? {};
  at("device").textContent = [model, platform, plural(cores, "core")].filter(Boolean).join(", ");
}

const named = ({ accelerator, threads }) =>
  accelerator === "webgpu" ? "GPU (WebGPU)" : `CPU, ${plural(threads, "thread")}`;

async function use(wanted) {
  const { mean, std } = about;
  const loaded = await library.load(bytes, { ...wanted, mean, std });
  model?.delete();
  [model, way] = [loaded, wanted];
}

function showFacts(model) {
  at("facts").textContent = [
    about.file,
    `${(about.bytes / 1e6).toFixed(2)} MB`,
    plural(about.labels.length, "class").replace("classs", "classes"),
    ...(model ? [`${model.height}\u00a0×\u00a0${model.width}\u00a0pixels`] : ["loading …"]),
  ].join(" · ");
}

function note(id, text) {
  at(id).textContent = text;
  at(id).hidden = false;
}

// Pictures

// The picture that is classified, and the last one that is not the camera's at this moment.
let picture, still;

async function open(file) {
  closeCamera();
  let image;
  try {
    // Upright, and without a change of its colours: Pillow makes none.
    image = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    return tell(`${file.name || "This"} is no picture that this browser can read.`);
  }
  tell("");
  await keep(image, file.name);
}

async function keep(image, name) {
  picture = still = image;
  show(image, name);
  await classify(image);
}

function show(image, name) {
  const shrunk = Math.min(1, SHOWN / Math.max(image.width, image.height));
  const canvas = at("picture");
  [canvas.width, canvas.height] = [image.width, image.height].map((side) => Math.max(1, Math.round(side * shrunk)));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.classList.toggle("small", Math.max(image.width, image.height) <= SMALL);
  canvas.setAttribute("aria-label", name ? `The picture ${name}` : "The picture");
  canvas.hidden = false;
  at("hint").hidden = true;
}

// Classes of `image`, unless the page has another picture when its turn comes.
async function classify(image) {
  if (!model) return;
  at("classes").setAttribute("aria-busy", "true");
  await inTurn(async () => {
    if (image !== picture) return;
    const pixels = model.pixels(image);
    showSeen(pixels);
    const input = model.tensor(pixels);
    const scores = probabilities(await model.run(input));
    input.delete();
    showClasses(scores);
  });
  at("classes").setAttribute("aria-busy", "false");
}

function probabilities(stored) {
  const { scale, zero_point, probabilities } = about;
  const scores = Array.from(stored, (value) => (scale ? (value - zero_point) * scale : value));
  if (probabilities) return scores;
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const sum = powers.reduce((one, other) => one + other);
  return powers.map((power) => power / sum);
}

function showSeen(pixels) {
  const { height, width } = model;
  const canvas = at("seen");
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let number = 0; number < width * height; number++)
    image.data.set([...pixels.subarray(3 * number, 3 * number + 3), 255], 4 * number);
  canvas.getContext("2d").putImageData(image, 0, 0);
  note("seen-note", `What the model sees of it: ${height}\u00a0×\u00a0${width}\u00a0pixels.`);
  at("seen-by-model").hidden = false;
}

function showClasses(scores) {
  const best = scores.map((score, label) => [score, label]).sort(([one], [other]) => other - one).slice(0, BEST);
  at("classes").replaceChildren(
    ...best.map(([score, label]) => {
      const item = document.createElement("li");
      const [name, share, bar] = ["name", "share", "bar"].map((kind) => {
        const part = document.createElement(kind === "name" ? "bdi" : "span");
        part.className = kind;
        return part;
      });
      name.textContent = about.labels[label];
      share.textContent = `${(100 * score).toFixed(1)} %`;
      bar.setAttribute("aria-hidden", "true");
      bar.style.setProperty("--share", score);
      item.dataset.score = score;
      item.append(name, " ", share, bar);
      return item;
    }),
  );
}

function showNone() {
  const item = document.createElement("li");
  item.className = "none";
  item.textContent = "Nothing to classify yet";
  at("classes").replaceChildren(item);
  at("seen-by-model").hidden = true;
}

at("file").addEventListener("change", choose);
at("shot").addEventListener("change", choose);

async function choose({ target }) {
  const [file] = target.files;
  if (file) await open(file);
  // The same file again is a change too.
  target.value = "";
}

addEventListener("dragover", (event) => {
  event.preventDefault();
  at("stage").classList.add("dragged");
});
addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || at("stage").classList.remove("dragged"));
addEventListener("drop", (event) => {
  event.preventDefault();
  at("stage").classList.remove("dragged");
  take(event.dataTransfer, "What was dropped is no file: save the picture first.");
});
addEventListener("paste", ({ clipboardData }) => take(clipboardData, "There is no picture to paste."));

const take = ({ files }, otherwise) => (files.length ? open(files[0]) : tell(otherwise));

// The camera

let stream;

at("camera").addEventListener("click", async () => {
  // Without https a phone can still take a picture by its own camera program.
  if (!navigator.mediaDevices) return at("shot").click();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return tell(REFUSALS[error.name] ?? `The camera can't be used: ${error.message}`);
  }
  tell("");
  const video = at("video");
  video.srcObject = stream;
  switchCamera(true);
  await video.play();
  const running = stream;
  while (stream === running) {
    const [before, image] = [picture, await createImageBitmap(video).catch(() => {})];
    if (stream !== running) break;
    if (image) {
      picture = image;
      if (before !== still) before?.close();
      await classify(image);
    }
    await pause(GLANCE);
  }
});
at("take").addEventListener("click", async () => {
  const image = await createImageBitmap(at("video"));
  closeCamera();
  at("camera").focus();
  await keep(image, "from the camera");
});
at("close").addEventListener("click", async () => {
  closeCamera();
  at("camera").focus();
  picture = still;
  if (still) await classify(still);
  else showNone();
});

function closeCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = undefined;
  at("video").srcObject = null;
  switchCamera(false);
}

function switchCamera(on) {
  at("video").hidden = at("take").hidden = at("close").hidden = !on;
  at("camera").hidden = on;
  for (const each of document.querySelectorAll("#file + label, #file")) each.hidden = on;
  at("picture").classList.toggle("behind", on);
  at("stage").classList.toggle("live", on);
  // What a camera sees changes too often to be read out.
  at("classes").setAttribute("aria-live", on ? "off" : "polite");
}

if (!navigator.mediaDevices) {
  const phone = matchMedia("(pointer: coarse)").matches;
  at("camera").disabled = !phone;
  if (phone) at("camera").textContent = "Take a picture";
  else note("camera-note", "No camera here: browsers give it to https and localhost alone.");
}

// Timing

at("runs-on").addEventListener("change", async ({ target }) => {
  const before = way;
  try {
    await inTurn(() => use(JSON.parse(target.value)));
    tell("");
  } catch (error) {
    target.value = JSON.stringify(before);
    tell(`LiteRT.js can't run ${about.file} on this: ${error.message}`);
  }
  if (picture) await classify(picture);
});

at("time").addEventListener("click", async () => {
  const controls = [at("time"), at("runs-on")];
  for (const each of controls) each.disabled = true;
  at("progress").hidden = false;
  try {
    showTimes(await inTurn(timed));
  } catch (error) {
    tell(`The runs could not be timed: ${error.message}`);
  }
  at("progress").hidden = true;
  for (const each of controls) each.disabled = false;
  at("time").focus();
});

// Milliseconds of loading the model, its first run, and RUNS of them after some that do not count.
async function timed() {
  const began = performance.now();
  await use(way);
  const loading = performance.now() - began;
  const pixels = picture ? model.pixels(picture) : new Uint8ClampedArray(model.height * model.width * 3).fill(128);
  const input = model.tensor(pixels);
  const once = async () => {
    const start = performance.now();
    await model.run(input);
    return performance.now() - start;
  };
  const first = await once();
  const runs = [];
  let breath = performance.now();
  for (let number = 0; number < WARM_UP_RUNS + RUNS; number++) {
    const took = await once();
    if (number >= WARM_UP_RUNS) runs.push(took);
    if (performance.now() - breath > BREATH) {
      at("progress").value = number / (WARM_UP_RUNS + RUNS);
      await pause(0);
      breath = performance.now();
    }
  }
  input.delete();
  return { loading, first, median: quantile(runs, 0.5), p90: quantile(runs, 0.9) };
}

// As NumPy has it: between the two values that are nearest.
function quantile(values, share) {
  const sorted = values.toSorted((one, other) => one - other);
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  return sorted[below] + (place - below) * (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]);
}

function showTimes({ loading, first, median, p90 }) {
  const row = at("times").querySelector("tbody").insertRow();
  const header = document.createElement("th");
  header.scope = "row";
  header.textContent = named(way);
  row.append(header);
  for (const each of [median, p90, first, loading])
    row.insertCell().textContent = each.toFixed(each < 10 ? 2 : each < 100 ? 1 : 0);
  at("times").hidden = false;
  const tick = clockTick();
  at("clock").textContent =
    tick > median / 50 ? `This browser's clock ticks every ${Number(tick.toPrecision(2))} ms: no time is finer.` : "";
}

// Milliseconds between two times that the browser's clock can tell apart.
function clockTick() {
  return Math.min(
    ...Array.from({ length: 5 }, () => {
      const before = performance.now();
      let after = before;
      while (after === before) after = performance.now();
      return after - before;
    }),
  );
}

await start();
