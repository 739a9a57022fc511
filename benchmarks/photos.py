"""Time and disk that photos take to be prepared, beside decoding each of them once on the same cores.

    python -m benchmarks.photos [COUNT [FOLDER]]

COUNT photos, 500 unless given, of 6 megapixels, held upright (EXIF 6): noise enlarged, or the images of FOLDER
enlarged, with grain.
"""

import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bitlite.sources.prepare import prepare
from bitlite.workflow.params import Dataset

SIZE = 3000, 2000


def write(folder: Path, count: int, images: list[Path]) -> int:
    """Write `count` photos in two classes. Returns their bytes."""
    exif = Image.Exif()
    exif[0x112] = 6

    def save(number: int) -> int:
        random = np.random.default_rng(number)
        if images:
            small = Image.open(images[number % len(images)]).convert("RGB")
        else:
            small = Image.fromarray(random.integers(256, size=(40, 60, 3), dtype=np.uint8))
        large = np.asarray(small.resize(SIZE, Image.Resampling.BICUBIC), np.int16)
        grain = random.integers(-6, 7, size=(*large.shape[:2], 1), dtype=np.int16) if images else 0
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90, exif=exif)
        return path.stat().st_size

    for name in "ab":
        (folder / name).mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return sum(threads.map(save, range(count)))


def decode(folder: Path) -> None:
    def load(path: Path) -> None:
        Image.open(path).load()

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(load, folder.glob("*/*.jpg")))


def seconds(work, *arguments) -> float:
    begin = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin


def main(count: str = "500", folder: str = "") -> None:
    images = sorted(path for path in Path(folder).rglob("*.jpg")) if folder else []
    with tempfile.TemporaryDirectory() as scratch:
        photos, prepared = Path(scratch, "photos"), Path(scratch, "prepared")
        size = write(photos, int(count), images)
        decode(photos)  # brings the files into memory, for both
        once = seconds(decode, photos)
        preparing = seconds(prepare, Dataset(name=str(photos)), prepared)
        after = sum(path.stat().st_size for path in prepared.iterdir())
        again = seconds(decode, photos)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(
        f"{count} photos of {size / 1e6:.0f} MB, {os.cpu_count()} cores: decoded in {once:.1f} and {again:.1f} s, "
        f"prepared in {preparing:.1f} s, {2 * preparing / (once + again):.2f} times as long, to {after / size:.3f} "
        f"times the bytes; at most {memory / 1e9:.2f} GB of memory"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
