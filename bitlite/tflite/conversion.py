"""A BiT to a .tflite file: lowering, quantization, metadata, one after the other. No TensorFlow."""

from collections.abc import Collection
from types import MappingProxyType

import numpy as np

from bitlite.bit.weights import Bit
from bitlite.images.pixels import Pixels
from bitlite.litert.metadata import METADATA
from bitlite.tflite import calibration, clipping, metadata, rounding
from bitlite.tflite.flatbuffer import compact
from bitlite.tflite.graph import to_file
from bitlite.tflite.lowering import lower
from bitlite.tflite.schemes import SCHEMES, Source, Types, lowered
from bitlite.workflow.params import Calibrated, Int8Mixed, Quantization, Static, Uncalibrated

FLOAT32 = Uncalibrated(scheme="float32")
ALL_FLOAT32: Types = MappingProxyType({})


def convert(
    bit: Bit, entry: Quantization, images: Pixels | Collection[np.ndarray] = (), *, types: Types = ALL_FLOAT32
) -> bytes:
    """The .tflite file of `bit` for batches of one image, with TFLite metadata and the names of its classes.

    Takes RGB pixels [1, height, width, 3] in 0..255 of the scheme's type, and gives logits [1, classes] of the same
    type, or with `softmax` probabilities. Equal input gives equal bytes.

    images: each uint8 [height, width, 3], to calibrate with, for the schemes that do; they are gone through up to three
    times. What `bit` has ranges for keeps them. types: of the convolutions, for the scheme mixed, such as
    `mixed.choose` finds. Raises WrongValue, before any work, if keep_float matches nothing.
    """
    return file(source(bit, entry, images), types)


def source(bit: Bit, entry: Quantization, images: Pixels | Collection[np.ndarray] = ()) -> Source:
    """What `convert` makes files of, lowered and calibrated."""
    bit = bit.folded()
    scheme = SCHEMES[entry.scheme]
    if isinstance(entry, Int8Mixed):
        entry = entry.model_copy(update={"keep_float": tuple(bit.matching(entry.keep_float, "keep_float"))})
    graph = lower(bit, scheme.rewrites(entry))
    float32 = to_file(graph)
    ranges: calibration.Ranges = {}
    if isinstance(entry, Static):
        ranges = clipping.without_idle(calibration.ranges(float32, images))
        if entry.ranges == "mse" and scheme.activations != "int16":  # which has steps enough
            ranges = clipping.narrowed(ranges, float32, images)
        ranges |= calibration.trained(graph)
    return Source(bit, scheme, entry, graph, float32, images, ranges)


def file(source: Source, types: Types = ALL_FLOAT32, *, trial: bool = False) -> bytes:
    """The file that `convert` makes of it. trial: with all weights rounded to the nearest, whatever `rounding` says."""
    content, architecture, scheme = source.scheme.make(source, types), source.bit.architecture, source.scheme
    if isinstance(source.entry, Calibrated) and source.entry.rounding == "compensated" and not trial:
        content = rounding.compensated(content, to_file(lowered(source, types)), source.images)
    notes = {METADATA: metadata.metadata(architecture, source.entry, scheme.pixels)} | scheme.notes
    return metadata.with_labels(compact(content, notes), architecture.labels)
