"""int8_mixed: which convolutions must stay float32. No TensorFlow."""

import tempfile
from bisect import bisect_left
from collections.abc import Collection
from pathlib import Path

import numpy as np

from bitlite.litert import runtime
from bitlite.tflite import convolutions, quantizer
from bitlite.tflite.calibration import Ranges
from bitlite.workflow import scores

# Validation images, at most, on which the error of each layer is measured.
SAMPLE = 32


def kept_float(
    float32: bytes,
    paths: Collection[str],
    ranges: Ranges,
    max_accuracy_drop: float,
    pixels: np.ndarray,
    labels: np.ndarray,
) -> set[str]:
    """The fewest convolutions that must stay float32 for the file to lose at most `max_accuracy_drop` of accuracy.

    pixels, labels: validation images [images, height, width, 3] in 0..255 and their classes. Layers stay float32 in
    the order of the error of their outputs in the file where none does; how many is found by bisection.
    """
    ratios = convolutions.signal_to_noise(quantizer.static(float32, paths, ranges), float32, paths, pixels[:SAMPLE])
    worst_first = sorted(paths, key=ratios.get)
    baseline = _accuracy(float32, pixels, labels)

    def enough(count: int) -> bool:
        content = quantizer.static(float32, [path for path in paths if path not in worst_first[:count]], ranges)
        return scores.within(_accuracy(content, pixels, labels), baseline, max_accuracy_drop)

    return set(worst_first[: bisect_left(range(len(worst_first)), True, key=enough)])


def _accuracy(content: bytes, pixels: np.ndarray, labels: np.ndarray) -> float:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.tflite"
        path.write_bytes(content)
        return scores.accuracy(runtime.logits(path, pixels), labels)
