"""A BiT as Google publishes it, from plain TensorFlow: what most people convert, and an oracle for the tests.

The network of bit_tf2/models.py of google-research/big_transfer, which TF Hub's modules hold: kernels are standardised
as the network runs, every padding is an operator of its own, and GroupNorm normalises a 5-D reshape.
"""

import tensorflow as tf

from bitlite.bit.names import FINAL_NORM, HEAD, ROOT
from bitlite.bit.weights import Bit

GROUPS = 32


class HubModule(tf.Module):
    """RGB [images, height, width, 3] in 0..1 to logits; the weights of `bit` in variables under BiT's names."""

    def __init__(self, bit: Bit):
        super().__init__()
        self.bit = {name: tf.Variable(value, name=name) for name, value in bit.weights.items()}
        self.units, self.projects = bit.units, bit.projects

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def __call__(self, images):
        x = self.conv(images * 2 - 1, ROOT, 2)
        x = tf.nn.max_pool2d(padded(x, 1), 3, 2, "VALID")
        for unit in self.units:
            y = self.norm_relu(x, unit.norm("a"))
            shortcut = self.conv(y, unit.projection, unit.stride) if self.projects(unit) else x
            y = self.norm_relu(self.conv(y, unit.conv("a")), unit.norm("b"))
            y = self.norm_relu(self.conv(y, unit.conv("b"), unit.stride), unit.norm("c"))
            x = self.conv(y, unit.conv("c")) + shortcut
        features = tf.reduce_mean(self.norm_relu(x, FINAL_NORM), axis=[1, 2])
        return features @ self.bit[f"{HEAD}/kernel"][0, 0] + self.bit[f"{HEAD}/bias"]

    def conv(self, x, path, stride=1):
        kernel = self.bit[f"{path}/kernel"]
        mean, variance = tf.nn.moments(kernel, [0, 1, 2], keepdims=True)
        return tf.nn.conv2d(
            padded(x, kernel.shape[0] // 2), (kernel - mean) / tf.sqrt(variance + 1e-10), stride, "VALID"
        )

    def norm_relu(self, x, path):
        shape, split = tf.shape(x), [GROUPS, x.shape[-1] // GROUPS]
        grouped = tf.reshape(x, tf.concat([shape[:-1], split], 0))
        mean, variance = tf.nn.moments(grouped, [1, 2, 4], keepdims=True)
        gamma, beta = (tf.reshape(self.bit[f"{path}/{part}"], split) for part in ("gamma", "beta"))
        normal = tf.nn.batch_normalization(grouped, mean, variance, beta, gamma, 1e-5)
        return tf.nn.relu(tf.reshape(normal, shape))


def padded(x, by):
    return tf.pad(x, [[0, 0], [by, by], [by, by], [0, 0]]) if by else x
