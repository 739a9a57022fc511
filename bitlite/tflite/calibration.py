"""The training images that calibrate a file, and the ranges of its tensors on them. No TensorFlow."""

import contextlib
import os
from collections.abc import Iterable, Iterator

import numpy as np
from litert_quantizer.calibrator import CalibrationMode, Calibrator
from litert_quantizer.qtyping import QSV
from litert_quantizer.recipe_manager import RecipeManager
from litert_quantizer.utils.qsv_utils import min_max_update
from tqdm import tqdm

from bitlite.tflite.graph import SIGNATURE, Graph
from bitlite.workflow.params import Calibrated

# Of LiteRT where sums must not depend on the machine: always as many.
THREADS = 2
# The least and the largest value of each tensor, by name.
Ranges = dict[str, QSV]


def shortfall(entry: Calibrated, images: int, classes: int) -> str | None:
    """What `entry` has to do without on so many training images of so many classes, in one line; None if nothing."""
    asked = entry.calibration_images
    if asked > images:
        return f"calibration_images is {asked}: all {images} training images calibrate, there are no more"
    if entry.calibration_balanced and asked < classes:
        return f"calibration_images is {asked}: one image each of {asked} of the {classes} classes calibrates"
    return None


def drawn(labels: np.ndarray, entry: Calibrated) -> np.ndarray:
    """Sorted indices of the training images of these `labels` that `entry` calibrates with, drawn by its seed.

    As many as it asks for or there are. Balanced, they are as evenly spread over the classes as these allow.
    """
    order = np.random.default_rng(entry.calibration_seed).permutation(len(labels))
    if entry.calibration_balanced:
        rank = np.empty(len(labels), int)  # of an image among those of its class
        for label in np.unique(labels):
            chosen = order[labels[order] == label]
            rank[chosen] = np.arange(len(chosen))
        order = order[np.argsort(rank[order], kind="stable")]
    return np.sort(order[: entry.calibration_images])


def ranges(float32: bytes, images: Iterable[np.ndarray]) -> Ranges:
    """The least and largest value of every tensor on `images`, each [height, width, 3] in 0..255.

    Measured by XNNPACK, several times as fast as the calibration in TensorFlow's converter. Extremes rather than the
    quantizer's moving average, which cuts off rare values.
    """
    calibrator = Calibrator(
        float32,
        num_threads=THREADS,
        mode=CalibrationMode.CALIBRATION_PROFILER_BASED,
        qsv_update_func=min_max_update,
    )
    for number, image in enumerate(tqdm(images, "calibrate", leave=False, disable=None)):
        pixels = image[None].astype(np.float32)
        if number == 0:
            # Black and white in one image make the input's range 0..255; in int8 its scale is 1: plain pixels go in.
            pixels[0, 0, 0], pixels[0, -1, -1] = 0, 255
        with quiet():
            calibrator.calibrate({SIGNATURE: [{"pixels": pixels}]}, RecipeManager())
    return calibrator.get_model_qsvs()


def trained(graph: Graph) -> Ranges:
    """The ranges that a network was trained for, of the tensors that have one."""
    ends = {each.output.name: each.output.range for each in graph.operators if each.output.range}
    return {
        name: {end: np.array([value], np.float32) for end, value in zip(("min", "max"), both, strict=True)}
        for name, both in ends.items()
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of litert-quantizer, which its own switches leave on."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
