"""Run a file of each scheme on old runtimes: one must answer as the runtime of this checkout, or refuse the file.

    python -m benchmarks.runtimes [RUNTIME ...]    default: all of RUNTIMES

The files are of a BiT of random weights with R50's root, in every scheme, with Winograd's algorithm too. uv makes an
environment for each runtime, in its cache: some GB for TensorFlow's. A runtime that has no package or no Python here is
named and left out.

Prints for each runtime and file the largest difference of a logit as a share of the largest, or `refused`. Fails if a
runtime answers wrongly, or refuses a file that says that it runs there.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.conversion import entries
from bitlite.bit.shapes import Shape
from bitlite.bit.weights import Bit, untrained
from bitlite.litert.needs import oldest_runtime
from bitlite.litert.runtime import Classifier
from bitlite.tflite import conversion

# The Python that each has wheels for.
RUNTIMES = {
    "tflite-runtime==2.7.0": "3.9",
    "tflite-runtime==2.14.0": "3.11",
    "tensorflow-cpu==2.15.1": "3.11",
    "tensorflow-cpu==2.18.1": "3.11",
    "tensorflow-cpu==2.19.1": "3.11",
    "ai-edge-litert==1.0.1": "3.11",
    "ai-edge-litert==1.1.0": "3.11",
    "ai-edge-litert==1.2.0": "3.11",
    "ai-edge-litert==1.4.0": "3.11",
    "ai-edge-litert==2.0.2": "3.11",
    "ai-edge-litert==2.1.0": "3.11",
}
SCRIPT = Path(__file__).with_name("old_runtime.py")
SIZE, IMAGES = (32, 32), 4
# Share of the largest logit. Runtimes round integers each in its own way, which adds up to 0.06; int4 was off by 30.
TOLERANCE = 0.1


class Unavailable(Exception):
    """A runtime can't be had here; says why."""


def main(*names: str) -> None:
    images = np.random.default_rng(1).integers(256, size=(IMAGES, *SIZE, 3), dtype=np.uint8)
    lies = []
    with tempfile.TemporaryDirectory() as scratch:
        files = written(Path(scratch), images)
        claims = {name: oldest_runtime(path) for name, path in files.items()}
        expected = {name: Classifier(path).logits(images) for name, path in files.items()}
        for name, claim in claims.items():
            print(f"{name:20}says {claim}")
        print(f"{'':24}" + "".join(f"{name.replace('winograd', 'w.'):>12}" for name in files))
        for runtime in names or RUNTIMES:
            try:
                found = {name: answer(runtime, path, images) for name, path in files.items()}
            except Unavailable as reason:
                print(f"{runtime:24} not here: {reason}", flush=True)
                continue
            words = {name: judged(found[name], expected[name]) for name in files}
            print(f"{runtime:24}" + "".join(f"{word:>12}" for word in words.values()), flush=True)
            lies += [
                f"{runtime} and {name}: {word}; the file says {claims[name]}"
                for name, word in words.items()
                if word == "WRONG" or (word == "refused" and claimed(claims[name], runtime))
            ]
    sys.exit("\n".join(lies) or None)


def written(directory: Path, images: np.ndarray) -> dict[str, Path]:
    """The files, by the name of their entry."""
    paths = {name: directory / f"{number}.tflite" for number, name in enumerate(entries())}
    for name, entry in entries().items():
        paths[name].write_bytes(conversion.convert(small(), entry, images))
    return paths


def small() -> Bit:
    """A BiT with all that R50x1 has, and 64 channels, which Winograd's algorithm asks for."""
    shape = Shape(filters=64, units=(1, 1), groups=8, root=7, pool=True, image_size=SIZE)
    bit = untrained("small", shape, seed=0).with_head(tuple(f"class{index}" for index in range(10)), SIZE).folded()
    random = np.random.default_rng(0)
    return bit.with_weights(
        {name: (value + random.normal(0, 0.1, value.shape)).astype(np.float32) for name, value in bit.weights.items()}
    )


def answer(runtime: str, path: Path, images: np.ndarray) -> np.ndarray | str:
    """Logits [images, classes] of a file on one of RUNTIMES, or why it refuses the file.

    images: uint8 [images, height, width, 3]. A runtime that dies counts as NaN. Raises Unavailable.
    """
    with tempfile.TemporaryDirectory() as scratch:
        stored = Path(scratch) / "images.npy"
        np.save(stored, images)
        environment = [
            "--isolated",
            "--no-project",
            "--python",
            RUNTIMES[runtime],
            "--with",
            runtime,
            "--with",
            "numpy<2",
        ]
        command = [sys.executable, "-m", "uv", "run", "--quiet", *environment, "python", SCRIPT, path, stored]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode in (1, 2):  # of uv
        raise Unavailable(run.stderr.strip())
    if run.returncode == 3:  # of the script
        raise RuntimeError(f"{path} on {runtime}: {run.stderr.strip()}")
    if run.returncode:  # by a signal
        return np.full((len(images), 1), np.nan)
    found = json.loads(run.stdout.splitlines()[-1])
    return found if isinstance(found, str) else np.array(found)


def judged(found: np.ndarray | str, expected: np.ndarray) -> str:
    """`refused`, `WRONG`, or the largest difference of a logit as a share of the largest."""
    if isinstance(found, str):
        return "refused"
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    return f"{difference:.1g}" if difference <= TOLERANCE else "WRONG"  # NaN is


def claimed(claim: str, runtime: str) -> bool:
    """Whether the runtime is at least the one that `oldest_runtime` gives. If that names no LiteRT, any will do."""
    package, release = runtime.split("==")
    oldest = dict(each.rsplit(" ", 1) for each in claim.split(", "))
    needed = oldest.get("LiteRT", "0") if package == "ai-edge-litert" else oldest["TensorFlow Lite"]
    return numbers(release) >= numbers(needed)


def numbers(release: str) -> list[int]:
    return [int(number) for number in release.split(".")]


if __name__ == "__main__":
    main(*sys.argv[1:])
