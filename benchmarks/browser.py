"""What LiteRT.js and MediaPipe make of .tflite files in a browser, against LiteRT here.

    python -m benchmarks.browser models/tflite/*.tflite

Runs ship/demo/classify.js, and MediaPipe's ImageClassifier, in headless Chromium on IMAGES test images: on the
CPU by WASM, and by WebGPU and WebGL on SwiftShader, a GPU in software, whose answers count and not its time. Needs
chromium and npm (apt-get install); npm fetches LiteRT.js and MEDIAPIPE once.
"""

import functools
import json
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import devtools
from bitlite.images import dataset
from bitlite.litert import runtime
from bitlite.litert.signature import signature
from bitlite.workflow.command import run
from bitlite.workflow.errors import InputError, one_line
from ship.demo import server

IMAGES = 20
# What runs files in a browser, and on which accelerators.
RUNTIMES = {"LiteRT.js": ("wasm", "webgpu"), "MediaPipe": ("wasm", "webgl")}
DOCUMENT = Path("docs/browser.md")
# What npm fetches beside LiteRT.js, and where to.
MEDIAPIPE, FOLDER = "@mediapipe/tasks-vision@1.1.0", Path(".browser")
# What a page finds out, by the script that runs the file, on an accelerator, of so many images.
TASK = """
async (script, accelerator, images) => {
  const { load } = await import(script);
  const { classify } = await load("model.tflite", { accelerator });
  const scores = [], milliseconds = [];
  for (let number = 0; number < images; number++) {
    const image = await createImageBitmap(await (await fetch(`${number}.png`)).blob());
    const start = performance.now();
    scores.push([...(await classify(image))]);
    milliseconds.push(performance.now() - start);
  }
  return { scores, milliseconds };
}
"""
# As classify.js, by MediaPipe, whose scores are floats for every file, the largest first.
BY_MEDIAPIPE = """
import { FilesetResolver, ImageClassifier } from "./node_modules/@mediapipe/tasks-vision/vision_bundle.mjs";

const wasm = await FilesetResolver.forVisionTasks("./node_modules/@mediapipe/tasks-vision/wasm");

export async function load(url, { accelerator }) {
  const baseOptions = { modelAssetPath: url, delegate: { wasm: "CPU", webgl: "GPU" }[accelerator] };
  const model = await ImageClassifier.createFromOptions(wasm, { baseOptions, canvas: new OffscreenCanvas(1, 1) });
  const classify = (image) => {
    const { categories } = model.classify(image).classifications[0];
    return categories.sort((one, other) => one.index - other.index).map(({ score }) => score);
  };
  return { classify };
}
"""


@dataclass(frozen=True)
class Answers:
    """What a file gives in the browser: scores float32 [images, classes], and milliseconds [images]."""

    scores: np.ndarray
    milliseconds: np.ndarray


def answers(path: Path, images: np.ndarray, accelerator: str, by: str = "LiteRT.js") -> Answers:
    """Of the file at `path` on `images` uint8 [images, height, width, 3], of its own size.

    by, accelerator: of RUNTIMES. Raises InputError with what the runtime or Chromium says if there are none, or with
    what is to be installed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch)
        shutil.copyfile(path, site / "model.tflite")
        for number, image in enumerate(images):
            Image.fromarray(image).save(site / f"{number}.png")
        (site / "mediapipe.js").write_text(BY_MEDIAPIPE)
        script = {"LiteRT.js": "./classify.js", "MediaPipe": "./mediapipe.js"}[by]
        (importmap,) = re.findall(r'<script type="importmap">.*?</script>', documented("html"), re.DOTALL)
        with opened(site, importmap) as page:
            try:
                found = page.value(f"({TASK})({json.dumps(script)}, {json.dumps(accelerator)}, {len(images)})")
            except RuntimeError as error:
                raise InputError(f"{by} has no answer for {path} by {accelerator}: {one_line(error)}") from error
    scores, (_, output) = np.array(found["scores"], np.float32), signature(path)
    if by == "LiteRT.js":
        scores = output.real(scores)
    return Answers(scores, np.array(found["milliseconds"]))


def documented(language: str) -> str:
    """The code that docs/browser.md has in `language`."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    return code


@contextmanager
def opened(site: Path, html: str) -> Iterator[devtools.Page]:
    """The page of this HTML in Chromium, beside the files of the folder `site`.

    classify.js of ship.demo, LiteRT.js and MediaPipe are there too.
    """
    (site / "node_modules").mkdir()
    for packages in installed():
        (site / "node_modules" / packages.name).symlink_to(packages.resolve())
    shutil.copyfile(server.FOLDER / "classify.js", site / "classify.js")
    (site / "index.html").write_text(f"<!doctype html>{html}")
    with served(site) as address, devtools.chromium() as page:
        page.open(address)
        yield page


def installed() -> tuple[Path, Path]:
    """The folders of LiteRT.js and of MediaPipe. Raises InputError that says what is to be installed."""
    devtools.check()
    mediapipe = FOLDER / "node_modules/@mediapipe"
    with server.in_turn():
        if not mediapipe.exists():
            server.npm(MEDIAPIPE, "install", "--no-save", "--prefix", FOLDER, MEDIAPIPE)
    return server.installed() / "@litertjs", mediapipe


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of a server of the files in `site`."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def main(*files: str) -> None:
    print(f"{'':32}{'':18}agreement  difference     ms")
    for path in map(Path, files):
        images, _ = dataset.read("test", runtime.Classifier(path).image_size)
        expected = runtime.logits(path, images[:IMAGES])
        for by, accelerator in [(by, each) for by, accelerators in RUNTIMES.items() for each in accelerators]:
            try:
                found = answers(path, images[:IMAGES], accelerator, by)
            except InputError as error:
                print(error, file=sys.stderr)
                continue
            agreement = np.mean(found.scores.argmax(axis=1) == expected.argmax(axis=1))
            difference = np.abs(found.scores - expected).max() / np.abs(expected).max()
            took = np.median(found.milliseconds)
            print(f"{path.stem:32}{by:10}{accelerator:8}{agreement:9.2f}{difference:12.6f}{took:7.1f}", flush=True)


if __name__ == "__main__":
    run(main)
