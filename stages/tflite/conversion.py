"""A BiT to a .tflite file in each scheme of quantization."""

import numpy as np
import tensorflow as tf

from stages import InputError
from stages.bit import network
from stages.bit.model import Bit, fold
from stages.params import Calibrated, Quantization, Scheme
from stages.tflite import layers, metadata, packing, quantizer

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
    keep_float auto. float32: the file of that scheme, where it is there already: int8_mixed and int4 are made from it.
    Raises InputError, before any work, if keep_float matches nothing.
    """
    paths = [path for path, _ in bit.output_sizes()]
    match how.scheme:
        case "int8_mixed":
            kept = bit.matching(how.keep_float, "keep_float") if how.keep_float != "auto" else None
            float32 = float32 or convert(bit, FLOAT32)
            ranges = layers.ranges(float32, paths, calibration)
            if kept is None:
                kept = quantizer.kept_float(float32, paths, ranges, how.max_accuracy_drop, *validation)
            content = quantizer.int8(float32, [path for path in paths if path not in kept], ranges)
        case "int4":
            content = quantizer.int4(float32 or convert(bit, FLOAT32), paths)
        case _:
            content = _by_converter(bit, how.scheme, calibration)
    notes = metadata.metadata(bit.architecture, how.scheme)
    return metadata.with_labels(packing.compact(content, notes), bit.architecture.labels)


def _by_converter(bit: Bit, scheme: str, calibration: np.ndarray | None) -> bytes:
    """What TensorFlow's own converter makes of `bit`."""
    model = network.build(fold(bit), norm=network.PerChannelGroupNorm)
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
    if scheme in ("int8", "int16x8"):
        calibration = calibration.astype(np.float32)
        # Black and white in one image make the input's range 0..255; in int8 its scale is 1: plain pixels go in.
        calibration[0, 0, 0], calibration[0, -1, -1] = 0, 255
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
    if scheme == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    if scheme == "int16x8":
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    return converter.convert()


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
