"""Quantized files of a float32 file, by the two quantizers that come with LiteRT. No TensorFlow.

litert-quantizer quantizes the operators it is told and leaves the rest float32. Files of integers throughout come from
the C++ quantizer that ai-edge-litert shares with TensorFlow's converter: litert-quantizer's lose much of the accuracy.
"""

import re
from collections.abc import Mapping

import numpy as np
from litert_quantizer.qtyping import TFLOperationName
from litert_quantizer.quantizer import Quantizer

from bitlite.bit.names import POOL, ROOT
from bitlite.tflite import convolutions
from bitlite.tflite.calibration import Ranges, quiet
from bitlite.tflite.flatbuffer import compact, with_ranges

# Bits of a weight in dynamic files, by the operator's type: `int4` makes dense layers of convolutions, `dynamic` none.
BITS = {"CONV_2D": 8, "FULLY_CONNECTED": 4}
# Kernels of fewer weights stay float32 in these, as TensorFlow's converter leaves them: int8 would save little,
# and their activations would have to be quantized.
SMALL = 1024
# Bits of the biases for each type of activations.
BIASES = {"int8": "int32", "int16": "int64"}


def dynamic(float32: bytes) -> bytes:
    """`float32` with large kernels of int8, and of int4 in dense layers; activations are quantized as they come.

    Each output channel has a scale, by its largest weight.
    """
    large = convolutions.outputs(float32, SMALL)
    if not large:
        return float32
    quantizer = Quantizer(float32)
    _add_dynamic(quantizer, large)
    return _quantized(quantizer)


def by_layer(float32: bytes, types: Mapping[str, str], ranges: Ranges, *, static_root: bool = False) -> bytes:
    """`float32` with its convolutions, by path, of the types float32, int8 and int4; those not named stay float32.

    int8 takes the `ranges` of inputs and outputs. In int8 too is what brings values to their places before such a
    convolution, as padding does. An int8 root is as in `dynamic`: images differ much in contrast, which no norm has
    taken out of its output yet, and steps for all would be coarse for most. `static_root` is for one that was trained
    for them. int4 must be a dense layer, as in `dynamic` too.
    """
    int8, int4 = ([path for path, each in types.items() if each == type] for type in ("int8", "int4"))
    root = [] if static_root else [path for path in int8 if path == ROOT]
    ranged = [path for path in int8 if path not in root]
    static = convolutions.operators(float32, [*ranged, POOL] if ROOT in ranged else ranged)
    large = convolutions.outputs(float32, SMALL)
    dynamic = convolutions.operators(float32, [*root, *int4])
    dynamic = {name: type for name, type in dynamic.items() if name in large}
    if not static and not dynamic:
        return float32
    quantizer = Quantizer(float32)
    for name, type in static.items():
        quantizer.add_static_config(_just(name), TFLOperationName(type), activation_num_bits=8, weight_num_bits=8)
    _add_dynamic(quantizer, dynamic)
    return _quantized(quantizer, ranges)


def integers(float32: bytes, ranges: Ranges, *, activations: str, pixels: str) -> bytes:
    """`float32` of integers throughout: int8 weights, `activations` of int8 or int16; input and output are `pixels`."""
    # A process can register one class of this name: at the top, TensorFlow's calibrator could not load beside bitlite.
    from ai_edge_litert._pywrap_tensorflow_lite_calibration_wrapper import CalibrationWrapper

    calibrated = with_ranges(float32, ranges)  # which the wrapper reads in place: it must live as long
    wrapper = CalibrationWrapper(calibrated, [], [])
    number = {name: np.dtype(name).num for name in (pixels, activations, BIASES[activations])}
    return wrapper.QuantizeModel(
        number[pixels],  # input
        number[pixels],  # output
        False,  # no operators left in float
        number[activations],
        number[BIASES[activations]],
        False,  # scales for each channel of convolutions
        False,  # and of dense layers
    )


def _add_dynamic(quantizer: Quantizer, operators: Mapping[str, str]) -> None:
    """operators: types of convolutions by the names of their outputs."""
    for name, type in operators.items():
        quantizer.add_dynamic_config(_just(name), TFLOperationName(type), num_bits=BITS[type])


def _just(name: str) -> str:
    """The pattern of one operator: the quantizer searches the names of an operator's outputs, each with ";"."""
    return f"^{re.escape(name)};$"


def _quantized(quantizer: Quantizer, ranges: Ranges | None = None) -> bytes:
    with quiet():
        return compact(quantizer.quantize(ranges, enable_progress_report=False).quantized_model)
