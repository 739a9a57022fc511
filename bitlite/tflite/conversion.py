"""A BiT to a .tflite file in each scheme of quantization."""

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.python.optimize.calibrator import Calibrator

from bitlite.bit.names import ROOT
from bitlite.bit.weights import Bit
from bitlite.tflite import lowering, metadata, packing, quantizer
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Calibrated, Quantization, Scheme

FLOAT32 = Scheme(scheme="float32")


def convert(
    bit: Bit,
    how: Quantization,
    calibration: np.ndarray | None = None,
    *,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    float32: bytes | None = None,
) -> bytes:
    """The .tflite file of `bit` for batches of one image, with TFLite metadata and the names of its classes.

    Takes RGB pixels [1, height, width, 3] in 0..255, as float32 or, with scheme int8, as uint8; gives logits
    [1, classes], as float32 or uint8 likewise. Weights are quantized symmetrically, so zeros stay zeros. Equal input
    gives equal bytes: every layer bears BiT's name.

    calibration: uint8 [images, height, width, 3], for the schemes that calibrate. validation: images and labels, for
    keep_float auto. float32: the file of that scheme, where it is there already: int4 and what calibrates are made of
    it, unless they pack the root.
    Raises InputError, before any work, if keep_float matches nothing.
    """
    paths = [convolution.path for convolution in bit.convolutions]
    if how.scheme == "int8_mixed" and how.keep_float != "auto":
        kept = bit.matching(how.keep_float, "keep_float")
    if how.scheme in ("float32", "float16", "dynamic"):
        content = _by_converter(bit, how.scheme, packed_root=packs(bit, how.scheme), winograd=how.winograd)
    else:
        if packs(bit, how.scheme) or not float32:
            float32 = _by_converter(bit, "float32", packed_root=packs(bit, how.scheme))
        ranges = quantizer.ranges(float32, calibration) if isinstance(how, Calibrated) else None
        match how.scheme:
            case "int4":
                content = quantizer.int4(float32, paths)
            case "int8" | "int16x8":
                content = _integers(float32, how.scheme, ranges)
            case "int8_mixed":
                if how.keep_float == "auto":
                    kept = quantizer.kept_float(float32, paths, ranges, how.max_accuracy_drop, *validation)
                content = quantizer.int8(float32, [path for path in paths if path not in kept], ranges)
    notes = metadata.metadata(bit.architecture, how.scheme)
    return metadata.with_labels(packing.compact(content, notes), bit.architecture.labels)


def packs(bit: Bit, scheme: str) -> bool:
    """Whether the file is faster with the root's pixels packed: where its kernel is large, and weights are integers.

    Images of odd sides can't be packed, and the converter has no int16x8 for space_to_depth.
    """
    large = len(bit.weights[f"{ROOT}/kernel"]) > 3
    even = all(side % 2 == 0 for side in bit.architecture.image_size)
    return large and even and scheme not in ("float32", "float16", "int16x8")


def _by_converter(bit: Bit, scheme: str, *, packed_root: bool, winograd: bool = False) -> bytes:
    """What TensorFlow's own converter makes of `bit`, lowered."""
    model = lowering.build(bit, packed_root=packed_root, winograd=winograd)
    pixels = tf.TensorSpec((1, *bit.architecture.image_size, 3), tf.float32, name="pixels")
    function = tf.function(lambda pixels: {"logits": model(pixels, training=False)}, input_signature=[pixels])
    # The converter saves what holds the variables: a bare module saves seconds that Keras would spend on its layers.
    holder = tf.Module()
    holder.weights = model.weights
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], holder)
    if scheme != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _integers(float32: bytes, scheme: str, ranges: quantizer.Ranges) -> bytes:
    """What the second half of TensorFlow's converter makes of a float32 file whose `ranges` are known.

    Its first half, the calibration, would take minutes for a large BiT.
    """
    calibrated = packing.with_ranges(float32, ranges)
    if scheme == "int8":
        return mlir_quantize(calibrated, input_data_type=tf.uint8, output_data_type=tf.uint8)
    number = {name: np.dtype(name).num for name in ("float32", "int16", "int64")}
    return Calibrator(calibrated)._calibrator.QuantizeModel(
        number["float32"],  # input
        number["float32"],  # output
        False,  # no operators left in float
        number["int16"],  # activations
        number["int64"],  # biases
        False,  # scales for each channel of convolutions
        False,  # and of dense layers
    )


def drawn(labels: np.ndarray, classes: tuple[str, ...], how: Calibrated) -> np.ndarray:
    """Sorted indices of the training images that `how` calibrates with, drawn by its seed.

    Balanced, they are as evenly spread over the classes as these allow. Raises InputError if there are too few images.
    """
    count = how.calibration_images
    if count > len(labels):
        raise InputError(f"calibration_images is {count}, but there are only {len(labels)} training images")
    order = np.random.default_rng(how.calibration_seed).permutation(len(labels))
    if how.calibration_balanced:
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
