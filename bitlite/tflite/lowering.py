"""A BiT as TFLite runs it best: the same function as the network for training, from operators that XNNPACK has.

Standardisation is folded into the kernels. benchmarks/conversion.py measures what each rewrite is worth.
"""

from functools import partial

import numpy as np
import tensorflow as tf

from bitlite.bit import network
from bitlite.bit.names import ROOT
from bitlite.bit.weights import ROOT_STRIDE, Bit

# What F(2, 3) makes of three weights (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks",
# arXiv:1509.09308, section 4.1). `_summed` does it to four pixels; `_outputs` makes two pixels of the four products.
KERNEL_TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
# Of the pairs that two neighbouring tiles share, the first and the second of every tile.
_TILES = slice(-1), slice(1, None)
# With fewer channels in or out, transforming the image takes about the time that the multiplications save, or more.
WINOGRAD_CHANNELS = 64


def build(bit: Bit, *, packed_root: bool = False, winograd: bool = False) -> tf.keras.Model:
    """The Keras model of `bit` for one image: RGB pixels [1, height, width, 3] in 0..255 to logits [1, classes].

    packed_root: the root reads 2x2 pixels at a time, see `pack`; for images of even sides.
    winograd: large 3x3 convolutions are computed by `Winograd`, as far as `by_winograd` says.
    """
    return network.build(bit.folded(), partial(Parts, packed_root=packed_root, winograd=winograd))


class Parts(network.Parts):
    """What the network of a folded BiT is built of, in the form for TFLite."""

    def __init__(self, bit: Bit, *, packed_root: bool, winograd: bool):
        super().__init__(bit)
        self.packed_root, self.winograd = packed_root, winograd

    def root(self, inputs):
        if not self.packed_root:
            return super().root(inputs)
        kernel = self.weights[f"{ROOT}/kernel"] = pack(self.weights[f"{ROOT}/kernel"])
        side, _, _, filters = kernel.shape
        blocks = tf.keras.layers.Lambda(lambda pixels: tf.nn.space_to_depth(pixels, ROOT_STRIDE), name=f"{ROOT}/pack")
        inputs = network.pad(blocks(inputs), ROOT, side // 2, side - 1 - side // 2)
        return self.conv_type(filters, side, use_bias=False, name=ROOT)(inputs)

    def conv(self, inputs, path: str, stride: int = 1):
        kernel = self.weights[f"{path}/kernel"]
        if not (self.winograd and stride == 1 and by_winograd(kernel, inputs.shape[1:3])):
            return super().conv(inputs, path, stride)
        del self.weights[f"{path}/kernel"]
        self.weights |= {f"{path}/kernel{number:02}": part for number, part in enumerate(transformed(kernel))}
        return Winograd(kernel.shape[-1], name=path)(inputs)

    def norm(self, inputs, path: str):
        return PerChannelGroupNorm(self.bit.groups(path), name=path)(inputs)


class PerChannelGroupNorm(network.GroupNorm):
    """GroupNorm of one image: moments over a 5-D reshape, the usual form, fall out of XNNPACK.

    Means of x and of x * x for each channel, averaged within the groups as small [groups, channels of a group] arrays,
    then one multiply and one add for each channel of the image. benchmarks/conversion.py measures what that costs.

    The variance is E[x^2] - E[x]^2, which loses what float32 can't hold of E[x^2] when the mean is large: with a mean
    of 10 standard deviations the output is within 1e-4 of the right one. Standardised kernels have a mean of zero,
    which keeps the mean of a group below one deviation (0.7 at most in bit-tiny's 22 norms on digits). Whatever comes
    in, what comes out is finite: rounding can't take the variance below zero.
    """

    def _normalized(self, inputs):
        mean, square = (self._group_mean(tf.reduce_mean(x, axis=[1, 2])) for x in (inputs, inputs * inputs))
        scale = self._grouped(self.gamma) * tf.math.rsqrt(tf.nn.relu(square - mean * mean) + network.GROUP_NORM_EPSILON)
        shift = self._grouped(self.beta) - mean * scale
        return inputs * self._spread(scale) + self._spread(shift)

    def _group_mean(self, statistic):
        return tf.reduce_mean(self._grouped(statistic), axis=1, keepdims=True)

    # Without a dimension for the batch, since XNNPACK takes longer for every dimension more.

    def _grouped(self, channels):
        """[channels] or [1, channels] as [groups, channels of a group]."""
        return tf.reshape(channels, [self.groups, channels.shape[-1] // self.groups])

    def _spread(self, grouped):
        """The inverse of `_grouped`, as [channels]."""
        return tf.reshape(grouped, [grouped.shape[0] * grouped.shape[1]])


def pack(kernel: np.ndarray) -> np.ndarray:
    """A kernel [side, side, inputs, outputs] of stride 2 and odd side, for 2x2 pixels packed into channels.

    [blocks, blocks, 4 * inputs, outputs], of stride 1, for what space_to_depth makes of the image; its middle is block
    `blocks // 2`. XNNPACK's integer kernels take channels by the vector, of which RGB fills little: this way the root
    of R50x1 takes 1.5 ms instead of 2.5. In float32 it takes longer, 3.3 instead of 2.9.
    """
    side, _, inputs, outputs = kernel.shape
    # The middle of the kernel comes to stand on the first of a block's pixels.
    before = side // 2 % 2
    blocks = (before + side + 1) // 2
    even = np.pad(kernel, ((before, 2 * blocks - side - before),) * 2 + ((0, 0), (0, 0)))
    split = even.reshape(blocks, 2, blocks, 2, inputs, outputs)
    return split.transpose(0, 2, 1, 3, 4, 5).reshape(blocks, blocks, 4 * inputs, outputs)


def by_winograd(kernel: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether `Winograd` can compute a convolution of stride 1 over an image of `size`, and should.

    It takes 3x3 kernels and images of even sides. Few channels gain nothing; zeros of pruned kernels would be lost.
    """
    side, _, *channels = kernel.shape
    even = all(length % 2 == 0 for length in size)
    return side == 3 and even and min(channels) >= WINOGRAD_CHANNELS and bool(kernel.all())


def transformed(kernel: np.ndarray) -> list[np.ndarray]:
    """The 16 kernels [1, 1, inputs, outputs] that `Winograd` makes of one [3, 3, inputs, outputs]."""
    kernels = np.einsum("ai,bj,ijcd->abcd", KERNEL_TRANSFORM, KERNEL_TRANSFORM, kernel).astype(np.float32)
    return list(kernels.reshape(16, 1, 1, *kernel.shape[2:]))


class Winograd(tf.keras.layers.Layer):
    """A 3x3 convolution of stride 1, zero-padded, with 4/9 of the multiplications: Winograd's F(2x2, 3x3).

    Images [batch, height, width, channels] of even sides are cut into tiles of 4x4 pixels that overlap by two. Sums of
    a tile's pixels go through 16 convolutions of 1x1, whose sums are 2x2 pixels of the output (arXiv:1509.09308). In
    float32 that is within 1e-5 of the convolution itself. The 16 kernels hold 16/9 as many weights. XNNPACK, which has
    no such algorithm of its own, runs R50x1 in 0.9 of the time.
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, shape):
        shape = (1, 1, shape[-1], self.filters)
        self.kernels = [self.add_weight(name=f"kernel{number:02}", shape=shape) for number in range(16)]

    def call(self, inputs):
        padded = tf.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
        sums = [each for rows in _summed(*_tile_rows(padded)) for each in _summed(*_tile_columns(rows))]
        products = [tf.nn.conv2d(each, kernel, 1, "VALID") for each, kernel in zip(sums, self.kernels, strict=True)]
        rows = [_outputs(*products[first : first + 4]) for first in range(0, 16, 4)]
        left, right = (_outputs(*column) for column in zip(*rows, strict=True))
        pairs = [tf.concat(row, axis=3) for row in zip(left, right, strict=True)]
        return tf.reshape(tf.concat(pairs, axis=2), [-1, *inputs.shape[1:3], self.filters])


def _tile_rows(image):
    """Rows 0, 1, 2 and 3 of every tile, each [batch, tiles, width, channels], of a padded image."""
    _, height, width, channels = image.shape
    # Two rows behind one another in memory are one of twice the width, whose halves XNNPACK copies as they are.
    pairs = tf.reshape(image, [-1, height // 2, 2 * width, channels])
    return [pairs[:, tiles, row] for tiles in _TILES for row in (slice(width), slice(width, None))]


def _tile_columns(image):
    """Columns 0, 1, 2 and 3 of every tile, each [batch, height, tiles, channels], of a padded image."""
    _, height, width, channels = image.shape
    pairs = tf.reshape(image, [-1, height, width // 2, 2 * channels])
    return [pairs[:, :, tiles, column] for tiles in _TILES for column in (slice(channels), slice(channels, None))]


def _summed(first, second, third, fourth):
    return first - third, second + third, third - second, second - fourth


def _outputs(first, second, third, fourth):
    return first + second + third, second - third - fourth
