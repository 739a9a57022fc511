"""Quantization that is learnt: a BiT trained under the rounding of quantized files, so that it ships as it was trained.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv:1712.05877. Kernels are rounded to the grid on which files hold them, and with activations of int8 what
convolutions read and give to a range of int8. Gradients go straight through, to weights in float32 beneath the grid.
"""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from bitlite.bit import network
from bitlite.bit.names import FEATURES, PIXELS, ROOT
from bitlite.bit.weights import ENDS, Bit
from bitlite.tflite.mixed import dense_layers
from bitlite.training.batches import Batch
from bitlite.workflow.params import Quantize

# Pixels lie half way between int8's steps of -1..1. In steps that are a little wider it is sure to which they round.
PIXEL_RANGE = (-1.002, 1.002)
# Of the way from zero to the extremes of a layer: 1, 0.95 and so on.
SHARES = np.linspace(1, 0.4, 13)


def quantized(bit: Bit, entry: Quantize, batches: Iterable[Batch]) -> Bit:
    """The folded `bit` with the kernels that `entry` asks for and, if it asks for int8 activations, ranges.

    The ranges are fitted to the images of `batches`. Conversion keeps both: it writes the kernels without error.
    """
    rounded = _rounded(bit, _bits(bit, entry))
    return _ranged(rounded, batches) if entry.activations == 8 else rounded


def trained(bit: Bit, at_once: Bit, entry: Quantize, fit: Callable[[tf.keras.Model], None]) -> Bit:
    """`at_once`, which `quantized` made of `bit`, after `fit` has trained it, from the weights that `bit` has.

    Zeros stay zeros, and ranges stay.
    """
    bits = _bits(bit, entry)
    model = network.build(at_once.with_weights(at_once.weights | bit.weights), bits)
    fit(model)
    return _rounded(at_once.with_weights(network.get_weights(model)), bits)


def _bits(bit: Bit, entry: Quantize) -> dict[str, int]:
    """The bits of all kernels, by path: 4 for those that are int4 in the file of scheme int4, and else 8.

    Kernels of 8 are free of error in all schemes, those too that leave them float32.
    """
    int4 = dense_layers(bit) if entry.weights == 4 else ()
    return {path: 4 if path in int4 else 8 for path in bit.paths}


def _rounded(bit: Bit, bits: dict[str, int]) -> Bit:
    kernels = {f"{path}/kernel": network.rounded(bit.weights[f"{path}/kernel"], bits[path]).numpy() for path in bits}
    return bit.with_weights(bit.weights | kernels)


def _ranged(bit: Bit, batches: Iterable[Batch]) -> Bit:
    """`bit` with ranges that round what `held` names with the least squared error on the images of `batches`.

    Of those from the least to the largest value, zero among them, or over one of SHARES of both: then what is rare is
    cut off, for smaller steps.
    """
    names, images = held(bit), [pixels for pixels, _ in batches]
    model = network.build(bit)
    watched = tf.keras.Model(model.input, [model.get_layer(name).output for name in names])

    def outputs(pixels: np.ndarray) -> list[tf.Tensor]:
        return [tf.cast(each, tf.float32) for each in watched(pixels)]

    extremes = np.array([[(np.min(each), np.max(each)) for each in outputs(pixels)] for pixels in images])
    least, largest = extremes[..., 0].min(axis=0, initial=0), extremes[..., 1].max(axis=0, initial=0)  # [layers]
    tried = np.stack([least, largest], axis=1)[:, None] * SHARES[:, None]  # [layers, shares, 2]
    errors = np.zeros(tried.shape[:2])
    for pixels in images:
        for place, values in enumerate(outputs(pixels)):
            errors[place] += [tf.reduce_mean((network.in_int8(values, *ends) - values) ** 2) for ends in tried[place]]
    best = tried[np.arange(len(names)), errors.argmin(axis=1)]  # [layers, 2]
    ranges = dict(zip(names, best, strict=True)) | {PIXELS: PIXEL_RANGE}
    ends = {f"{name}/range/{end}": ends[place] for name, ends in ranges.items() for place, end in enumerate(ENDS)}
    return bit.with_weights(bit.weights | {name: np.asarray(value, np.float32) for name, value in ends.items()})


def held(bit: Bit) -> list[str]:
    """The layers of the network whose outputs are what convolutions read or give: int8 in both schemes of int8.

    In int8_mixed nothing else is. In int8 the sums and all inside a norm are too, whose ranges calibration finds.
    """
    # A frozen norm goes into the convolution before it, as lowering's folded_norm has it.
    readers = {} if bit.architecture.pool else {ROOT: bit.units[0].norm("a")}
    readers |= {unit.conv(part): unit.norm(reader) for unit in bit.units for part, reader in ("ab", "bc")}
    frozen = bit.architecture.frozen_norms
    convolutions = [path for path in bit.paths if readers.get(path) not in frozen]
    read = [f"{unit.norm(part)}/relu" for unit in bit.units for part in "abc"]
    return [PIXELS, *convolutions, *read, FEATURES]
