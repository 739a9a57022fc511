"""A BiT to a .tflite file: lowering, quantization, metadata, one after the other. No TensorFlow."""

from collections.abc import Iterable
from types import MappingProxyType

import numpy as np

from bitlite.bit.weights import Bit
from bitlite.litert.metadata import METADATA
from bitlite.tflite import calibration, metadata
from bitlite.tflite.flatbuffer import compact
from bitlite.tflite.graph import to_file
from bitlite.tflite.lowering import lower
from bitlite.tflite.schemes import SCHEMES, Source, Types
from bitlite.workflow.params import Calibrated, Mixed, Quantization, Uncalibrated

FLOAT32 = Uncalibrated(scheme="float32")
ALL_FLOAT32: Types = MappingProxyType({})


def convert(bit: Bit, entry: Quantization, images: Iterable[np.ndarray] = (), *, types: Types = ALL_FLOAT32) -> bytes:
    """The .tflite file of `bit` for batches of one image, with TFLite metadata and the names of its classes.

    Takes RGB pixels [1, height, width, 3] in 0..255 of the scheme's type, and gives logits [1, classes] of the same
    type, or with `softmax` probabilities. Equal input gives equal bytes.

    images: each uint8 [height, width, 3], to calibrate with, for the schemes that do; what `bit` has ranges for keeps
    them. types: of the convolutions, for the scheme mixed, such as `mixed.choose` finds. Raises WrongValue, before any
    work, if keep_float matches nothing.
    """
    return file(source(bit, entry, images), types)


def source(bit: Bit, entry: Quantization, images: Iterable[np.ndarray] = ()) -> Source:
    """What `convert` makes files of, lowered and calibrated."""
    bit = bit.folded()
    scheme = SCHEMES[entry.scheme]
    if isinstance(entry, Mixed):
        entry = entry.model_copy(update={"keep_float": tuple(bit.matching(entry.keep_float, "keep_float"))})
    graph = lower(bit, scheme.rewrites(entry))
    float32 = to_file(graph)
    ranges = calibration.ranges(float32, images) | calibration.trained(graph) if isinstance(entry, Calibrated) else None
    return Source(bit, scheme, entry, graph, float32, ranges)


def file(source: Source, types: Types = ALL_FLOAT32) -> bytes:
    """The file that `convert` makes of it."""
    content, architecture, scheme = source.scheme.make(source, types), source.bit.architecture, source.scheme
    notes = {METADATA: metadata.metadata(architecture, source.entry, scheme.pixels)} | scheme.notes
    return metadata.with_labels(compact(content, notes), architecture.labels)
