"""Outputs and loss of a model on images."""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bitlite.images.pixels import Pixels
from bitlite.training.batches import Batch

# Images at a time, fewer where they have more than 128 x 128 pixels: memory must hold some layers' outputs for them.
PREDICTION_BATCH, PREDICTION_PIXELS = 256, 256 * 128**2

# Takes float32 images [batch, height, width, 3] in 0..255, or their features.
Forward = Callable[[np.ndarray], tf.Tensor]


def inference(model: tf.keras.Model) -> Forward:
    """`model` as a function, traced once for batches of every size."""
    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    return tf.function(lambda pixels: model(pixels, training=False), input_signature=[images])


def predict(model: tf.keras.Model | Forward, pixels: np.ndarray | Pixels) -> np.ndarray:
    """Outputs float32 [count, ...] of `model`, or of its `inference`, for images uint8 [count, height, width, 3]."""
    forward = inference(model) if isinstance(model, tf.keras.Model) else model
    height, width = pixels.shape[1:3]
    at_once = max(1, min(PREDICTION_BATCH, PREDICTION_PIXELS // (height * width)))
    starts = tqdm(range(0, len(pixels), at_once), "predict", leave=False, disable=None)
    outputs = [forward(pixels[i : i + at_once].astype(np.float32, copy=False)) for i in starts]
    return np.concatenate([tf.cast(each, tf.float32).numpy() for each in outputs])


def mean_loss(forward: Forward, batches: Iterable[Batch]) -> float:
    """Mean cross-entropy, over all images of `batches`, of the logits [batch, classes] that `forward` gives."""
    losses = [tf.nn.softmax_cross_entropy_with_logits(targets, forward(pixels)) for pixels, targets in batches]
    return float(np.mean(np.concatenate(losses)))
