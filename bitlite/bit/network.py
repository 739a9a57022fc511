"""A BiT as a Keras model: exactly Google's network, from layers that bear BiT's own variable names.

This is the form for training; bitlite/tflite/lowering.py has the form that TFLite runs fast.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

import numpy as np
import tensorflow as tf
from tensorflow.keras import layers

from bitlite.bit.names import FEATURES, FINAL_NORM, HEAD, PIXELS, ROOT
from bitlite.bit.weights import ENDS, GROUP_NORM_EPSILON, ROOT_STRIDE, STANDARDIZATION_EPSILON, Bit

# What the layer of a unit's output is called, behind the unit's path.
SUM = "/add"


class _Conv2D(layers.Conv2D):
    """Convolution by another kernel than the one it holds."""

    def add_weight(self, name: str, *args, **kwargs):
        # The other kernel is made in float32 whatever the precision.
        return super().add_weight(name, *args, experimental_autocast=name != "kernel", **kwargs)

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, tf.cast(self.used(kernel), inputs.dtype))


class StdConv2D(_Conv2D):
    """Convolution with weight standardisation (Qiao et al., arXiv:1903.10520), without bias as in BiT."""

    def used(self, kernel):
        mean, variance = tf.nn.moments(kernel, axes=[0, 1, 2], keepdims=True)
        return (kernel - mean) / tf.sqrt(variance + STANDARDIZATION_EPSILON)


class RoundedConv2D(_Conv2D):
    """Convolution by its kernel rounded to so many `bits`, which gradients go straight through. Zeros stay zeros."""

    def __init__(self, *args, bits: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.bits = bits

    def used(self, kernel):
        # So a weight of 0 gets no gradient.
        return rounded(kernel * tf.cast(tf.not_equal(kernel, 0), tf.float32), self.bits)


def rounded(kernel: tf.Tensor, bits: int) -> tf.Tensor:
    """`kernel` [height, width, inputs, outputs] as files with kernels of so many bits hold it.

    Each output has a scale, of which its largest weight is 127, or 7 for 4 bits. Rounded again, it stays the same.
    """
    largest = tf.reduce_max(tf.abs(kernel), axis=[0, 1, 2])
    return tf.quantization.fake_quant_with_min_max_vars_per_channel(kernel, -largest, largest, bits, narrow_range=True)


class Int8(layers.Layer):
    """Values as `in_int8` makes them, from a `least` to a `largest` that training leaves as they are."""

    def build(self, shape):
        self.ends = [self.add_weight(name=end, shape=(), trainable=False, experimental_autocast=False) for end in ENDS]

    def call(self, inputs):
        return tf.cast(in_int8(tf.cast(inputs, tf.float32), *self.ends), inputs.dtype)


def in_int8(values: tf.Tensor, least: float, largest: float) -> tf.Tensor:
    """`values` as int8 holds them in a range, with one of its 256 numbers at zero; gradients go straight through."""
    return tf.quantization.fake_quant_with_min_max_vars(values, least, largest)


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


class FrozenNorm(layers.Layer):
    """A norm whose mean is 0 and whose deviation is a constant: what pruning leaves of a GroupNorm."""

    def __init__(self, deviation: float, **kwargs):
        super().__init__(**kwargs)
        self.deviation = deviation

    def build(self, shape):
        self.gamma, self.beta = (self.add_weight(name=name, shape=shape[-1:]) for name in ("gamma", "beta"))

    def call(self, inputs):
        return inputs * (self.gamma / self.deviation) + self.beta


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Networks that are built inside compute in float32, or for "mixed" in bfloat16, and hold float32 weights."""
    tf.keras.mixed_precision.set_global_policy({"float32": "float32", "mixed": "mixed_bfloat16"}[name])
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


def build(bit: Bit, bits: Mapping[str, int] = MappingProxyType({})) -> tf.keras.Model:
    """The Keras model of `bit`: RGB pixels [batch, height, width, 3] in 0..255 to logits [batch, classes].

    A layer's name is the path of its weights in BiT's names, so a variable's name is BiT's. The output of a
    layer that `bit` has a range for is rounded as int8 holds it.

    bits: of the kernels, by path, that are to be rounded as they are used.
    """

    def layer(made: layers.Layer, inputs):
        """The output of a layer, rounded if it has a range."""
        outputs = made(inputs)
        return Int8(name=f"{made.name}/range")(outputs) if bit.range(made.name) else outputs

    def conv_type(path: str) -> Callable[..., layers.Conv2D]:
        if path in bits:
            return partial(RoundedConv2D, bits=bits[path], name=path)
        standardized = bit.architecture.standardized and path != HEAD
        return partial(StdConv2D if standardized else layers.Conv2D, name=path)

    def conv(inputs, path: str, stride: int = 1):
        side, _, _, filters = bit.weights[f"{path}/kernel"].shape
        padding = "same"
        # Strides let TF pad an even image at the bottom and right first, BiT pads all four sides.
        if stride > 1 and side > 1 and any(size % 2 == 0 for size in inputs.shape[1:3]):
            inputs, padding = layers.ZeroPadding2D(side // 2, name=f"{path}/pad")(inputs), "valid"
        return layer(conv_type(path)(filters, side, stride, padding, use_bias=False), inputs)

    def norm_relu(inputs, path: str):
        deviation = bit.architecture.frozen_norms.get(path)
        norm = GroupNorm(bit.groups(path), name=path) if deviation is None else FrozenNorm(deviation, name=path)
        return layer(layers.ReLU(name=f"{path}/relu"), norm(inputs))

    pixels = tf.keras.Input((*bit.architecture.image_size, 3), name="pixels")
    x = layer(layers.Rescaling(1 / 127.5, offset=-1, name=PIXELS), pixels)
    x = conv(x, ROOT, ROOT_STRIDE)
    if bit.architecture.pool:
        x = layers.ZeroPadding2D(1, name="resnet/root_block/pad")(x)
        x = layers.MaxPooling2D(3, 2, name="resnet/root_block/pool")(x)
    for unit in bit.units:
        preactivated = norm_relu(x, unit.norm("a"))
        if bit.projects(unit):
            x = conv(preactivated, unit.projection, unit.stride)
        y = conv(preactivated, unit.conv("a"))
        y = conv(norm_relu(y, unit.norm("b")), unit.conv("b"), unit.stride)
        y = conv(norm_relu(y, unit.norm("c")), unit.conv("c"))
        x = layers.Add(name=f"{unit.path}{SUM}")([x, y])
    x = norm_relu(x, FINAL_NORM)
    x = layer(layers.GlobalAveragePooling2D(keepdims=True, name=FEATURES), x)
    x = layer(conv_type(HEAD)(len(bit.architecture.labels), 1), x)
    model = tf.keras.Model(pixels, layers.Flatten(name="logits")(x), name="bit")
    set_weights(model, bit.weights)
    return model


def only_head_trained(model: tf.keras.Model) -> bool:
    """Whether training would change the head alone."""
    return all(name_of(variable).startswith(HEAD) for variable in model.trainable_variables)


def split(model: tf.keras.Model) -> tuple[tf.keras.Model, tf.keras.Model]:
    """The trunk, from pixels to features [batch, 1, 1, channels], and the head, from these to logits, of `model`.

    They share its layers.
    """
    features = model.get_layer(FEATURES).output
    return tf.keras.Model(model.input, features), tf.keras.Model(features, model.output)


def with_units(model: tf.keras.Model) -> tf.keras.Model:
    """`model` with two outputs: those of its residual units [batch, height, width, channels], by path, and its own.

    They share its layers.
    """
    # Layers that a copy shares with another model have an output in each, and in the copy the last.
    sums = [each for each in model.layers if each.name.endswith(SUM)]
    units = {each.name.removesuffix(SUM): each.get_output_at(-1) for each in sums}
    return tf.keras.Model(model.input, (units, model.output))


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
