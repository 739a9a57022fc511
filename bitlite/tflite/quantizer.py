"""The AI Edge Quantizer, which works on a float32 file: calibration, and schemes. No TensorFlow."""

import contextlib
import os
import re
import tempfile
from bisect import bisect_left
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from ai_edge_quantizer.calibrator import CalibrationMode, Calibrator
from ai_edge_quantizer.qtyping import QSV, TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer
from ai_edge_quantizer.recipe_manager import RecipeManager
from ai_edge_quantizer.utils.qsv_utils import min_max_update
from tqdm import tqdm

from bitlite.litert import runtime
from bitlite.tflite import layers, packing
from bitlite.workflow import scores

# BiT's convolutions; the converter may make dense layers of those of size 1.
OPERATIONS = (TFLOperationName.CONV_2D, TFLOperationName.FULLY_CONNECTED)
# Validation images, at most, on which the error of each layer is measured.
SAMPLE = 32
# The least and the largest value of each tensor, by name.
Ranges = dict[str, QSV]


def ranges(float32: bytes, pixels: np.ndarray) -> Ranges:
    """What the values of every tensor range over on the images `pixels` [images, height, width, 3] in 0..255.

    By XNNPACK, several times as fast as the calibration in TensorFlow's converter; the extremes, since the quantizer's
    usual moving average cuts off what is rare.
    """
    pixels = pixels.astype(np.float32)
    # Black and white in one image make the input's range 0..255; in int8 its scale is 1: plain pixels go in.
    pixels[0, 0, 0], pixels[0, -1, -1] = 0, 255
    calibrator = Calibrator(
        float32,
        # Always as many, so that no sum depends on the machine.
        num_threads=2,
        mode=CalibrationMode.CALIBRATION_PROFILER_BASED,
        qsv_update_func=min_max_update,
    )
    for image in tqdm(pixels, "calibrate", leave=False, disable=None):
        with _quiet():
            calibrator.calibrate({"serving_default": [{"pixels": image[None]}]}, RecipeManager())
    return calibrator.get_model_qsvs()


def int4(float32: bytes, paths: Collection[str]) -> bytes:
    """`float32` with int4 kernels in the convolutions `paths`, and a scale for each of their output channels.

    The quantizer can give blocks of weights scales of their own, but only in dense layers.
    """
    quantizer = Quantizer(float32)
    for scope in _scopes(float32, paths):
        for operation in OPERATIONS:
            quantizer.add_dynamic_config(scope, operation, num_bits=4)
    return _quantized(quantizer)


def int8(float32: bytes, paths: Collection[str], ranges: Ranges) -> bytes:
    """`float32` computing the convolutions `paths` in int8, as the `ranges` of their inputs and outputs have it."""
    if not paths:
        return float32
    quantizer = Quantizer(float32)
    for scope in _scopes(float32, paths):
        for operation in OPERATIONS:
            quantizer.add_static_config(scope, operation, activation_num_bits=8, weight_num_bits=8)
    return _quantized(quantizer, ranges)


def kept_float(
    float32: bytes,
    paths: Collection[str],
    ranges: Ranges,
    max_accuracy_drop: float,
    pixels: np.ndarray,
    labels: np.ndarray,
) -> set[str]:
    """The fewest convolutions that must stay float32 for `int8` to lose at most `max_accuracy_drop` of accuracy.

    pixels, labels: validation images [images, height, width, 3] in 0..255 and their classes. Layers stay float32 in
    the order of the error of their outputs in the file where none does; how many is found by bisection.
    """
    ratios = layers.signal_to_noise(int8(float32, paths, ranges), float32, paths, pixels[:SAMPLE])
    worst_first = sorted(paths, key=ratios.get)
    least = _accuracy(float32, pixels, labels) - max_accuracy_drop

    def enough(count: int) -> bool:
        content = int8(float32, [path for path in paths if path not in worst_first[:count]], ranges)
        return _accuracy(content, pixels, labels) >= least

    return set(worst_first[: bisect_left(range(len(worst_first)), True, key=enough)])


def _accuracy(content: bytes, pixels: np.ndarray, labels: np.ndarray) -> float:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.tflite"
        path.write_bytes(content)
        return scores.accuracy(runtime.Classifier(path).logits(pixels), labels)


def _scopes(float32: bytes, paths: Collection[str]) -> list[str]:
    """Patterns of just these convolutions: the quantizer searches the names of an operator's outputs, each with ";"."""
    return [f"^{re.escape(layer.output.name)};$" for layer in layers.find(float32, paths).values()]


def _quantized(quantizer: Quantizer, ranges: Ranges | None = None) -> bytes:
    with _quiet():
        return packing.compact(quantizer.quantize(ranges, enable_progress_report=False).quantized_model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's progress bars, which can't be switched off."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
