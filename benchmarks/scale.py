"""Measure time and memory of real sizes: R50x1 through the whole workflow, R101x3, and a folder of a million images.

    python -m benchmarks.scale r50x1 FOLDER     224 px, 2 steps of fine-tuning and of recovery, one pruning, 4 schemes
    python -m benchmarks.scale r101x3 FOLDER    no fine-tuning, dynamic, evaluated on 10 images
    python -m benchmarks.scale images [COUNT [SIDE]]
        a folder of 1,000,000 JPEGs of 64 px, beside decoding them alone; killed, and going on; the first batch
    python -m benchmarks.scale evaluate         1,000 images through R50x1, against single latencies on all cores

FOLDER holds one folder of images for each class. Weights are random, which changes neither time nor memory. The first
two run in a clean clone of the last commit; memory is the most that any one process of the workflow held at a time, for
`images` what all of them held together.
"""

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from ruamel.yaml import YAML

from benchmarks.workflow import PROJECT, repro
from bitlite.bit.shapes import published
from bitlite.bit.weights import untrained
from bitlite.sources import unfinished
from bitlite.sources.inspection import in_processes
from bitlite.workflow.cores import cores

SCHEMES = {
    "float32": {"scheme": "float32"},
    "float16": {"scheme": "float16"},
    "dynamic": {"scheme": "dynamic"},
    "int8": {"scheme": "int8", "calibration_images": 16},
}
CHANNELS = {"method": "channels", "keep": 0.5, "steps": 2, "batch_size": 8, "learning_rate": 0.001}


def workflow(name: str, folder: str, scratch: Path) -> None:
    """Time every stage for the published network `name` with random weights."""
    bit = untrained(name, published(name), seed=0)
    np.savez(scratch / "weights.npz", **bit.weights)
    del bit
    clone = scratch / "clone"
    subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
    yaml = YAML()
    params = yaml.load(clone / "params.yaml")
    small = name == "r50x1"
    params["dataset"] |= {"name": str(Path(folder).resolve()), "max_examples": None if small else 10}
    params["backbone"] |= {"name": f"bit-m-{name}", "source": str(scratch / "weights.npz")}
    params["finetune"] |= {"steps": 2 if small else 0, "batch_size": 8, "image_size": 224, "resize": 256}
    params["pruning"] = {"channels": CHANNELS} if small else {"dense": {"method": "none"}}
    params["quantization"] = SCHEMES if small else {"dynamic": SCHEMES["dynamic"]}
    params["benchmark"]["runs"] = 20
    params["compare"]["baseline"] = "channels-float32" if small else "dense-dynamic"
    yaml.dump(params, clone / "params.yaml")
    print(f"{name}: {repro(clone)}; at most {peak_memory_gb(resource.RUSAGE_CHILDREN):.1f} GB")


def evaluate(scratch: Path) -> None:
    """Print the time of evaluating R50x1 on 1,000 images over 1,000 latencies shared among the cores."""
    from bitlite.litert import runtime
    from bitlite.tflite.conversion import FLOAT32, convert

    side, path = 224, scratch / "r50x1.tflite"
    bit = untrained("r50x1", published("r50x1"), seed=0).with_head(("a", "b"), (side, side))
    path.write_bytes(convert(bit, FLOAT32))
    pixels = np.random.default_rng(0).integers(256, size=(1000, side, side, 3), dtype=np.uint8)
    single = np.median(runtime.Classifier(path).latencies(pixels[0], warmup_runs=5, runs=50)) / 1000
    start = time.perf_counter()
    runtime.logits(path, pixels)
    seconds = time.perf_counter() - start
    share = seconds / (len(pixels) * single / cores())
    print(f"R50x1, 1,000 images: {seconds:.1f} s on {cores()} cores, {share:.2f} times 1,000 latencies over the cores")


PREPARE = """
from pathlib import Path
from bitlite.sources.prepare import prepare
from bitlite.workflow.params import Dataset
prepare(Dataset(name="folder"), Path("dataset"), interrupted=Path("interrupted"))
"""
# As fine-tuning begins: an epoch in an order of its own, of BiT-HyperRule's batches.
FIRST_BATCH = """
from pathlib import Path
import numpy as np
from bitlite.images import dataset
pixels, labels = dataset.read("train", (SIDE, SIDE), Path("dataset"), cache_mb=1000)
order = np.random.default_rng(0).permutation(len(pixels))
pixels[order[:512]]
"""
# Besides, all that memory may keep and as much again.
BATCHES = """
for start in range(0, min(len(pixels), 2 * 10**9 // (3 * SIDE**2)), 512):
    pixels[start : start + 512]
"""
RECIPE = """
from pathlib import Path
from bitlite.images import dataset
dataset.digest(Path("dataset")), dataset.median_area(Path("dataset"))
"""


def images(scratch: Path, count: str = "1000000", side: str = "64") -> None:
    """Prepare a folder and read it, beside decoding it, and print what each takes."""
    from benchmarks.scale import load, save  # as other processes know them

    numbers = range(int(count))
    paths = [str(scratch / "folder" / f"{number % 100:02}" / f"{number}.jpg") for number in numbers]
    for label in range(100):
        (scratch / "folder" / f"{label:02}").mkdir(parents=True)
    consume(in_processes(partial(save, int(side)), zip(numbers, paths, strict=True)))
    consume(in_processes(load, paths))  # brings the files into memory, for all

    def decoded() -> float:
        begin = time.perf_counter()
        consume(in_processes(load, paths))
        return time.perf_counter() - begin

    def report(what: str, seconds: float, memory: float, more: str = "") -> None:
        print(f"{what}: {seconds:.1f} s, at most {memory / 1e9:.2f} GB{more}", flush=True)

    size = sum(os.path.getsize(path) for path in paths)
    before = decoded()
    whole, memory = run(scratch, PREPARE)
    after = decoded()
    print(f"{int(count):,} JPEGs of {side} px, {size / 1e9:.1f} GB, {cores()} cores")
    print(f"decoded alone, before and after: {before:.1f} s, {after:.1f} s", flush=True)
    report("prepared", whole, memory, f", {2 * whole / (before + after):.2f} times as long as decoded")
    unbroken = digest_of(scratch / "dataset")
    left = scratch / "interrupted"
    half = int(count) // 2 * unfinished.LENGTH
    for when, reached in (
        ("half of the images are looked at", lambda: sum(p.stat().st_size for p in left.glob("seen")) > half),
        ("the first records are being written", lambda: any(left.glob("records/*/*"))),
    ):
        first, _ = run(scratch, PREPARE, reached)
        rest, memory = run(scratch, PREPARE)
        equal = "equal" if digest_of(scratch / "dataset") == unbroken else "OTHER"
        report(f"killed after {first:.1f} s, when {when}, went on to {equal} bytes", rest, memory)
    begin = FIRST_BATCH.replace("SIDE", side)
    report("first batch, with the start of Python", *run(scratch, begin))
    report("and with cache_mb 1000 full", *run(scratch, begin + BATCHES.replace("SIDE", side)))
    report("digest and median area, with the start of Python", *run(scratch, RECIPE))


def run(folder: Path, code: str, reached: Callable[[], bool] = lambda: False) -> tuple[float, int]:
    """Run Python in `folder`, killed once a point is reached. Returns seconds, and the most bytes of all processes."""
    begin, most = time.perf_counter(), 0
    process = psutil.Popen([sys.executable, "-c", code], cwd=folder, env=os.environ | {"PYTHONPATH": str(PROJECT)})
    while process.poll() is None and not reached():
        with suppress(psutil.Error):
            most = max(most, sum(each.memory_info().rss for each in (process, *process.children(recursive=True))))
        time.sleep(0.1)
    if process.poll() is None:
        process.kill()
    elif process.returncode:
        sys.exit(process.returncode)
    process.wait()
    return time.perf_counter() - begin, most


def save(side: int, item: tuple[int, str]) -> None:
    number, path = item
    noise = np.random.default_rng(number).integers(256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=85)


def load(path: str) -> None:
    Image.open(path).load()


def consume(results: Iterable) -> None:
    deque(results, maxlen=0)


def digest_of(directory: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def peak_memory_gb(whose: int) -> float:
    return resource.getrusage(whose).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def main(what: str, *arguments: str) -> None:
    scratch = Path(tempfile.mkdtemp())
    try:
        if what in ("images", "evaluate"):
            {"images": images, "evaluate": evaluate}[what](scratch, *arguments)
        else:
            workflow(what, *arguments, scratch)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main(*sys.argv[1:])
