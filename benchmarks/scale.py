"""Measure time and memory of real sizes: R50x1 through the whole workflow, R101x3, and a folder of 100,000 images.

    python -m benchmarks.scale r50x1 FOLDER     224 px, 2 steps of fine-tuning and of recovery, one pruning, 4 schemes
    python -m benchmarks.scale r101x3 FOLDER    no fine-tuning, dynamic, evaluated on 10 images
    python -m benchmarks.scale images           100,000 images of 32 px: two epochs of reading
    python -m benchmarks.scale evaluate         1,000 images through R50x1, against single latencies on all cores

FOLDER holds one folder of images for each class. Weights are random, which changes neither time nor memory. Each runs
in a clean clone of the last commit; memory is the most that any one process of the workflow held at a time.
"""

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from benchmarks.workflow import PROJECT, repro
from bitlite.bit.shapes import published
from bitlite.bit.weights import untrained
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


def images(scratch: Path) -> None:
    """Prepare 100,000 images and read them twice, in one process; print what each part takes."""
    from bitlite.images import dataset
    from bitlite.sources.prepare import prepare
    from bitlite.workflow.params import Dataset

    def write(index: int) -> None:
        noise = np.random.default_rng(index).integers(256, size=(32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(scratch / "folder" / str(index % 10) / f"{index}.jpg")

    for label in range(10):
        (scratch / "folder" / str(label)).mkdir(parents=True)
    with ThreadPoolExecutor() as threads:
        list(threads.map(write, range(100_000)))
    empty = peak_memory_gb(resource.RUSAGE_SELF)

    def report(what: str, begin: float) -> None:
        more = peak_memory_gb(resource.RUSAGE_SELF) - empty
        print(f"{what}: {time.perf_counter() - begin:.0f} s, at most {more:.2f} GB above an empty run", flush=True)

    begin = time.perf_counter()
    prepare(Dataset(name=str(scratch / "folder")), scratch / "dataset")
    report("download", begin)
    pixels, _ = dataset.read("train", (36, 36), scratch / "dataset", cache_mb=1000)
    for epoch in ("first epoch", "second epoch"):
        begin = time.perf_counter()
        for start in range(0, len(pixels), 512):
            pixels[start : start + 512]
        report(epoch, begin)


def peak_memory_gb(whose: int) -> float:
    return resource.getrusage(whose).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def main(what: str, folder: str = "") -> None:
    scratch = Path(tempfile.mkdtemp())
    try:
        if what in ("images", "evaluate"):
            {"images": images, "evaluate": evaluate}[what](scratch)
        else:
            workflow(what, folder, scratch)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main(*sys.argv[1:])
