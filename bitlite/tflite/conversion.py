"""A BiT to a .tflite file: lowering, quantization, metadata, one after the other. No TensorFlow."""

from collections.abc import Collection

import numpy as np

from bitlite.bit.weights import Bit
from bitlite.tflite import calibration, clipping, metadata, rounding
from bitlite.tflite.flatbuffer import compact
from bitlite.tflite.graph import to_file
from bitlite.tflite.lowering import lower
from bitlite.tflite.schemes import SCHEMES, Source
from bitlite.workflow.params import Calibrated, Mixed, Quantization, Static, Uncalibrated

FLOAT32 = Uncalibrated(scheme="float32")


def convert(
    bit: Bit,
    entry: Quantization,
    images: Collection[np.ndarray] = (),
    *,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> bytes:
    """The .tflite file of `bit` for batches of one image, with TFLite metadata and the names of its classes.

    Takes RGB pixels [1, height, width, 3] in 0..255 of the scheme's type, and gives logits [1, classes] of the same
    type, or with `softmax` probabilities. Equal input gives equal bytes.

    images: each uint8 [height, width, 3], to calibrate with, for the schemes that do; they are gone through up to three
    times. validation: images uint8 [images, height, width, 3] and their labels, for keep_float: auto. Raises
    WrongValue, before any work, if keep_float matches nothing.
    """
    scheme = SCHEMES[entry.scheme]
    if isinstance(entry, Mixed) and entry.keep_float != "auto":
        entry = entry.model_copy(update={"keep_float": tuple(bit.matching(entry.keep_float, "keep_float"))})
    graph = lower(bit, scheme.rewrites(entry))
    float32 = to_file(graph)
    ranges = None
    if isinstance(entry, Static):
        ranges = clipping.without_idle(calibration.ranges(float32, images))
        if entry.ranges == "mse" and scheme.activations == "int8":  # int16 has steps enough
            ranges = clipping.narrowed(ranges, float32, images)
    content = scheme.make(Source(scheme, entry, graph, float32, bit.paths, ranges, validation))
    if isinstance(entry, Calibrated) and entry.rounding == "compensated":
        content = rounding.compensated(content, float32, images)
    notes = {metadata.NAME: metadata.metadata(bit.architecture, entry, scheme.pixels)} | scheme.notes
    return metadata.with_labels(compact(content, notes), bit.architecture.labels)
