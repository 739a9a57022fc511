"""Powers of two that keep BiT's activations within float16's range, where GPUs and ARMv8.2 compute in it.

A standardised kernel of n weights for each output makes values sqrt(n) times as large as those it reads: their squares,
which a norm averages, leave the range of float16 (65,504). What a norm reads can be multiplied by any factor, if the
norm takes the factor out again: the function stays the same. A power of two rounds no float32 weight, and those of a
kernel are stored in it: neither operators nor bytes are added.
"""

import math

import numpy as np

from bitlite.bit.names import FINAL_NORM, ROOT
from bitlite.bit.weights import Bit

# A norm multiplies by at most 1 / sqrt(epsilon) = 316, times gamma, over the power. That must stay in range too: with
# this power, for gammas up to 6.
LEAST = 2.0**-5


def powers(bit: Bit) -> dict[str, float]:
    """The power of two by which the values at each path grow: outputs of convolutions, inputs of norms.

    The paths are those of all convolutions whose output only norms read, and of all norms. All that adds to the
    residual stream has one power, set where the stream is widest. There and after inner convolutions values have a
    deviation of about 1, if their power is not LEAST.
    """
    found = {}
    widest = width = _gain(bit, ROOT) ** 2
    for unit in bit.units:
        for part, reader in (("a", "b"), ("b", "c")):
            found[unit.conv(part)] = found[unit.norm(reader)] = _inverse(_gain(bit, unit.conv(part)))
        if bit.projects(unit):
            width = _gain(bit, unit.projection) ** 2
        width += _gain(bit, unit.conv("c")) ** 2
        widest = max(widest, width)
    stream = _inverse(math.sqrt(widest))
    for unit in bit.units:
        found[unit.norm("a")] = found[unit.conv("c")] = found[unit.projection] = stream
    return found | {ROOT: stream, FINAL_NORM: stream}


def _gain(bit: Bit, path: str) -> float:
    """Root mean square of a convolution's outputs for independent inputs of mean square 1."""
    kernel = bit.weights[f"{path}/kernel"]
    return math.sqrt(np.square(kernel, dtype=np.float64).sum() / kernel.shape[3])


def _inverse(gain: float) -> float:
    """The power of two nearest to 1 / gain, LEAST at least; 1 for a kernel of zeros."""
    return max(2.0 ** -round(math.log2(gain)), LEAST) if gain else 1.0
