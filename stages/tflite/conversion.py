"""A BiT to a .tflite file in each scheme of quantization."""

import flatbuffers
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from stages.bit import network
from stages.bit.model import ROOT, Bit, fold
from stages.params import Quantization


def convert(bit: Bit, how: Quantization, calibration: np.ndarray | None = None) -> bytes:
    """The .tflite file of `bit` for batches of one image.

    Takes RGB pixels [1, height, width, 3] in 0..255, as float32 or, with scheme int8, as uint8; gives logits
    [1, classes], as float32 or uint8 likewise. `calibration`: uint8 [images, height, width, 3], for scheme int8. Equal
    input gives equal bytes: every layer bears BiT's name.
    """
    model = network.build(fold(bit), norm=network.PerChannelGroupNorm, packed_root=packs(bit, how))
    pixels = tf.TensorSpec((1, *bit.architecture.image_size, 3), tf.float32, name="pixels")
    function = tf.function(lambda pixels: {"logits": model(pixels, training=False)}, input_signature=[pixels])
    # The converter saves what holds the variables: a bare module saves seconds that Keras would spend on its layers.
    holder = tf.Module()
    holder.weights = model.weights
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], holder)
    if how.scheme != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if how.scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if how.scheme == "int8":
        calibration = calibration.astype(np.float32)
        # Black and white in one image make the input's range 0..255 and its scale 1: plain pixels go in.
        calibration[0, 0, 0], calibration[0, -1, -1] = 0, 255
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return compact(converter.convert())


def packs(bit: Bit, how: Quantization) -> bool:
    """Whether the file is faster with the root's pixels packed: where its kernel is large, and weights are integers.

    Images of odd sides can't be packed.
    """
    large = len(bit.weights[f"{ROOT}/kernel"]) > 3
    even = all(side % 2 == 0 for side in bit.architecture.image_size)
    return large and even and how.scheme not in ("float32", "float16")


def compact(content: bytes) -> bytes:
    """The same .tflite file with equal vectors written once.

    An int8 file has a zero point of 64 bits, always 0, for each channel of each kernel and bias: of a small model that
    is a twentieth of the file.
    """
    builder = _SharingBuilder()
    builder.Finish(schema.ModelT.InitFromPackedBuf(content).Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):
    def __init__(self):
        super().__init__(0)
        self.offsets = {}

    def CreateNumpyVector(self, x):
        key = (x.dtype.str, x.tobytes())
        if key not in self.offsets:
            self.offsets[key] = super().CreateNumpyVector(x)
        return self.offsets[key]

    def StartVector(self, elemSize, numElems, alignment):
        # Weights are vectors of bytes; LiteRT reads them in place, aligned as its schema demands.
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Sorted indices of `count` images, as evenly spread over the classes as these allow: the first ones of each."""
    rank = np.empty(len(labels), int)
    for label in np.unique(labels):
        rank[labels == label] = np.arange(np.sum(labels == label))
    return np.sort(np.lexsort((labels, rank))[:count])
