"""The training images that calibrate a file, and the ranges of its tensors on them. No TensorFlow."""

import contextlib
import os
import sys
from collections.abc import Iterator

import numpy as np
from litert_quantizer.calibrator import CalibrationMode, Calibrator
from litert_quantizer.qtyping import QSV
from litert_quantizer.recipe_manager import RecipeManager
from litert_quantizer.utils.qsv_utils import min_max_update
from tqdm import tqdm

from bitlite.tflite.graph import SIGNATURE
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Calibrated

# Of LiteRT where sums must not depend on the machine: always as many.
THREADS = 2
# The least and the largest value of each tensor, by name.
Ranges = dict[str, QSV]


def drawn(labels: np.ndarray, classes: tuple[str, ...], entry: Calibrated) -> np.ndarray:
    """Sorted indices of the training images that `entry` calibrates with, drawn by its seed.

    Balanced, they are as evenly spread over the classes as these allow. If there are fewer than asked for, it is all of
    them, and stderr says so. Raises InputError if there can be none of some class.
    """
    count = entry.calibration_images
    if count > len(labels):
        print(f"calibration_images is {count}: calibrated with all {len(labels)} training images", file=sys.stderr)
        count = len(labels)
    order = np.random.default_rng(entry.calibration_seed).permutation(len(labels))
    if entry.calibration_balanced:
        if count < len(classes):
            raise InputError(
                f"calibration_images is {count}, but there are {len(classes)} classes: calibrate with more images, or "
                "set calibration_balanced: false"
            )
        rank = np.empty(len(labels), int)
        for label, name in enumerate(classes):
            chosen = order[labels[order] == label]
            if not chosen.size:
                raise InputError(
                    f"there is no training image of class {name!r} to calibrate with: set calibration_balanced: false"
                )
            rank[chosen] = np.arange(len(chosen))
        order = order[np.argsort(rank[order], kind="stable")]
    return np.sort(order[:count])


def ranges(float32: bytes, pixels: np.ndarray) -> Ranges:
    """The least and largest value of every tensor on the images `pixels` [images, height, width, 3] in 0..255.

    Measured by XNNPACK, several times as fast as the calibration in TensorFlow's converter. Extremes rather than the
    quantizer's moving average, which cuts off rare values.
    """
    pixels = pixels.astype(np.float32)
    # Black and white in one image make the input's range 0..255; in int8 its scale is 1: plain pixels go in.
    pixels[0, 0, 0], pixels[0, -1, -1] = 0, 255
    calibrator = Calibrator(
        float32,
        num_threads=THREADS,
        mode=CalibrationMode.CALIBRATION_PROFILER_BASED,
        qsv_update_func=min_max_update,
    )
    for image in tqdm(pixels, "calibrate", leave=False, disable=None):
        with quiet():
            calibrator.calibrate({SIGNATURE: [{"pixels": image[None]}]}, RecipeManager())
    return calibrator.get_model_qsvs()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of litert-quantizer, which its own switches leave on."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
