"""A BiT as a Keras model: exactly Google's network, from layers that bear BiT's own variable names.

Two GroupNorms compute the same function: Keras's own, for training, and `PerChannelGroupNorm`, which TFLite runs fast.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from stages.bit.model import FINAL_NORM, HEAD, ROOT, ROOT_STRIDE, STANDARDIZATION_EPSILON, Bit

layers = tf.keras.layers
# The layer whose output the head reads.
FEATURES = "resnet/features"
GROUP_NORM_EPSILON = 1e-5


class StdConv2D(layers.Conv2D):
    """Convolution with weight standardisation (Qiao et al., arXiv:1903.10520), without bias as in BiT."""

    def add_weight(self, *args, **kwargs):
        # Standardised in float32 whatever the precision.
        return super().add_weight(*args, experimental_autocast=False, **kwargs)

    def convolution_op(self, inputs, kernel):
        mean, variance = tf.nn.moments(kernel, axes=[0, 1, 2], keepdims=True)
        kernel = (kernel - mean) / tf.sqrt(variance + STANDARDIZATION_EPSILON)
        return super().convolution_op(inputs, tf.cast(kernel, inputs.dtype))


class GroupNorm(layers.Layer):
    """GroupNorm (Wu & He, arXiv:1803.08494) over [batch, height, width, channels], in the form for training."""

    def __init__(self, groups: int, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups

    def build(self, shape):
        # Statistics need float32 whatever the precision.
        self.gamma, self.beta = (
            self.add_weight(name=name, shape=shape[-1:], initializer=initializer, experimental_autocast=False)
            for name, initializer in (("gamma", "ones"), ("beta", "zeros"))
        )

    def call(self, inputs):
        return tf.cast(self._normalized(tf.cast(inputs, tf.float32)), inputs.dtype)

    def _normalized(self, inputs):
        # The moments of a group from those of its channels: faster than moments over a 5-D reshape, and as exact.
        means, variances = tf.nn.moments(inputs, axes=[1, 2])
        mean, between = tf.nn.moments(self._grouped(means), axes=[2], keepdims=True)
        variance = tf.reduce_mean(self._grouped(variances), axis=2, keepdims=True) + between
        scale = self._grouped(self.gamma) * tf.math.rsqrt(variance + GROUP_NORM_EPSILON)
        shift = self._grouped(self.beta) - mean * scale
        return inputs * self._spread(scale) + self._spread(shift)

    def _grouped(self, channels):
        """[..., channels] as [batch or 1, groups, channels of a group]."""
        return tf.reshape(channels, [-1, self.groups, channels.shape[-1] // self.groups])

    def _spread(self, grouped):
        """The inverse of `_grouped`, as [batch, 1, 1, channels]."""
        return tf.reshape(grouped, [-1, 1, 1, grouped.shape[1] * grouped.shape[2]])


class PerChannelGroupNorm(GroupNorm):
    """The same function of one image, for TFLite: moments over a 5-D reshape, the usual form, fall out of XNNPACK.

    Means of x and of x * x for each channel, averaged within the groups as small [groups, channels of a group] arrays,
    then one multiply and one add for each channel of the image. benchmarks/conversion.py measures what that costs.

    The variance is E[x^2] - E[x]^2, which loses what float32 can't hold of E[x^2] when the mean is large: with a mean
    of 10 standard deviations the output is within 1e-4 of `GroupNorm`'s. Standardised kernels have a mean of zero,
    which keeps the mean of a group below one deviation (0.7 at most in bit-tiny's 22 norms on digits). Whatever comes
    in, what comes out is finite: rounding can't take the variance below zero.
    """

    def _normalized(self, inputs):
        mean, square = (self._group_mean(tf.reduce_mean(x, axis=[1, 2])) for x in (inputs, inputs * inputs))
        scale = self._grouped(self.gamma) * tf.math.rsqrt(tf.nn.relu(square - mean * mean) + GROUP_NORM_EPSILON)
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


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Networks that are built inside compute in float32, or for "mixed" in bfloat16, and hold float32 weights."""
    tf.keras.mixed_precision.set_global_policy({"float32": "float32", "mixed": "mixed_bfloat16"}[name])
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


def build(bit: Bit, norm: type[GroupNorm] = GroupNorm, packed_root: bool = False) -> tf.keras.Model:
    """The Keras model of `bit`: RGB pixels [batch, height, width, 3] in 0..255 to logits [batch, classes].

    A layer's name is the path of its weights in BiT's names, so a variable's name is BiT's. With `packed_root`, the
    root of a folded `bit` for images of even sides computes the same from 2x2 pixels at a time, see `pack`.
    """
    conv_type = StdConv2D if bit.architecture.standardized else layers.Conv2D
    weights = bit.weights | ({f"{ROOT}/kernel": pack(bit.weights[f"{ROOT}/kernel"])} if packed_root else {})

    def pad(inputs, path, before, after):
        return layers.ZeroPadding2D(((before, after), (before, after)), name=f"{path}/pad")(inputs)

    def conv(inputs, path, stride=1):
        side, _, _, filters = weights[f"{path}/kernel"].shape
        padding = "same"
        # Strides let TF pad an even image at the bottom and right first, BiT pads all four sides.
        if stride > 1 and side > 1 and any(size % 2 == 0 for size in inputs.shape[1:3]):
            inputs, padding = pad(inputs, path, side // 2, side // 2), "valid"
        return conv_type(filters, side, stride, padding, use_bias=False, name=path)(inputs)

    def norm_relu(inputs, path):
        normal = norm(bit.groups(path), name=path)(inputs)
        return layers.ReLU(name=f"{path}/relu")(normal)

    pixels = tf.keras.Input((*bit.architecture.image_size, 3), name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="normalize")(pixels)
    if packed_root:
        side, _, _, filters = weights[f"{ROOT}/kernel"].shape
        x = layers.Lambda(lambda pixels: tf.nn.space_to_depth(pixels, ROOT_STRIDE), name=f"{ROOT}/pack")(x)
        x = pad(x, ROOT, side // 2, side - 1 - side // 2)
        x = conv_type(filters, side, use_bias=False, name=ROOT)(x)
    else:
        x = conv(x, ROOT, ROOT_STRIDE)
    if bit.architecture.pool:
        x = pad(x, "resnet/root_block", 1, 1)
        x = layers.MaxPooling2D(3, 2, name="resnet/root_block/pool")(x)
    for unit in bit.units:
        preactivated = norm_relu(x, f"{unit.prefix}/a/group_norm")
        if unit.projected:
            x = conv(preactivated, f"{unit.prefix}/a/proj/standardized_conv2d", unit.stride)
        y = conv(preactivated, f"{unit.prefix}/a/standardized_conv2d")
        y = norm_relu(y, f"{unit.prefix}/b/group_norm")
        y = conv(y, f"{unit.prefix}/b/standardized_conv2d", unit.stride)
        y = norm_relu(y, f"{unit.prefix}/c/group_norm")
        y = conv(y, f"{unit.prefix}/c/standardized_conv2d")
        x = layers.Add(name=f"{unit.prefix}/add")([x, y])
    x = norm_relu(x, FINAL_NORM)
    x = layers.GlobalAveragePooling2D(keepdims=True, name=FEATURES)(x)
    x = layers.Conv2D(len(bit.architecture.labels), 1, name=HEAD)(x)
    model = tf.keras.Model(pixels, layers.Flatten(name="logits")(x), name="bit")
    set_weights(model, weights)
    return model


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


def only_head_trained(model: tf.keras.Model) -> bool:
    """Whether training would change the head alone."""
    return all(name_of(variable).startswith(HEAD) for variable in model.trainable_variables)


def split(model: tf.keras.Model) -> tuple[tf.keras.Model, tf.keras.Model]:
    """The trunk, from pixels to features [batch, 1, 1, channels], and the head, from these to logits, of `model`.

    They share its layers.
    """
    features = model.get_layer(FEATURES).output
    return tf.keras.Model(model.input, features), tf.keras.Model(features, model.output)


def set_trainable(model: tf.keras.Model, part: str) -> None:
    """Freeze all but `part`: all, head, or last_block (with the norm and the head behind it)."""
    last_block = max(layer.name.split("/")[1] for layer in model.layers if "/block" in layer.name)
    trained = {"all": "", "head": HEAD, "last_block": (f"resnet/{last_block}/", FINAL_NORM, HEAD)}[part]
    for layer in model.layers:
        layer.trainable = layer.name.startswith(trained)


def set_weights(model: tf.keras.Model, weights: dict[str, np.ndarray]) -> None:
    """Copy `weights` into `model` by name."""
    for variable in model.weights:
        variable.assign(weights[name_of(variable)])


def get_weights(model: tf.keras.Model) -> dict[str, np.ndarray]:
    """The weights of `model` under BiT's names."""
    return {name_of(variable): variable.numpy() for variable in model.weights}


def name_of(variable: tf.Variable) -> str:
    """BiT's name of a variable: without TensorFlow's output index."""
    return variable.name.removesuffix(":0")
