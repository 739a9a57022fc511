"""Training of a BiT: one loop for pretraining, fine-tuning and recovery after pruning."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from stages.bit.hyperrule import MOMENTUM, Recipe, learning_rate
from stages.scores import accuracy

# Rows of a training curve, each with an accuracy on validation.
CURVE_ROWS = 10
PREDICTION_BATCH = 256


@dataclass(frozen=True)
class Images:
    """Images uint8 [count, height, width, 3] in 0..255 and their labels int32 [count]."""

    pixels: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Teacher:
    """Whose outputs a student follows (Hinton et al., arXiv:1503.02531): `weight` of the loss, at a temperature."""

    model: tf.keras.Model
    weight: float
    temperature: float


def fit(
    model: tf.keras.Model,
    train: Images,
    validation: Images,
    recipe: Recipe,
    *,
    seed: int,
    teacher: Teacher | None = None,
    desc: str = "train",
) -> list[dict[str, float]]:
    """Train the trainable weights of `model` in place, and return the curve.

    Its rows hold `scores.CURVE_COLUMNS`; loss and accuracy are means over the batches since the row before. `train` is
    at the recipe's `resize`, `validation` at its `image_size`. Equal arguments on an equal machine give bit-equal
    weights.
    """
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    classes = model.output_shape[-1]
    decay = recipe.weight_decay or None
    if recipe.optimizer == "sgd":
        optimizer = tf.keras.optimizers.SGD(momentum=MOMENTUM, weight_decay=decay)
    else:
        optimizer = tf.keras.optimizers.Adam(weight_decay=decay)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    # Variables that the first step made would have it traced twice.
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(pixels, targets):
        with tf.GradientTape() as tape:
            logits = model(pixels, training=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
            if teacher:
                followed = distillation_loss(teacher.model(pixels, training=False), logits, teacher.temperature)
                loss = (1 - teacher.weight) * loss + teacher.weight * followed
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        hits = tf.equal(tf.argmax(logits, axis=1), tf.argmax(targets, axis=1))
        return loss, tf.reduce_mean(tf.cast(hits, tf.float32))

    side = recipe.image_size
    data = tf.data.Dataset.from_generator(
        lambda: batches(train, recipe, classes, seed),
        output_signature=(tf.TensorSpec([None, side, side, 3]), tf.TensorSpec([None, classes])),
    ).prefetch(2)
    rows_at = {round(recipe.steps * (row + 1) / CURVE_ROWS) for row in range(CURVE_ROWS)}
    curve, recent = [], []
    with tqdm(data, desc, recipe.steps, unit="step", disable=None) as progress:
        for number, batch in enumerate(progress):
            optimizer.learning_rate.assign(learning_rate(number, recipe))
            recent.append(step(*batch))
            if number + 1 in rows_at:
                loss, hits = np.mean(recent, axis=0)
                recent.clear()
                row = {
                    "step": number + 1,
                    "loss": float(loss),
                    "accuracy": float(hits),
                    "validation_accuracy": accuracy(predict(model, validation.pixels), validation.labels),
                    "learning_rate": learning_rate(number, recipe),
                }
                curve.append(row)
                progress.set_postfix(loss=f"{loss:.3f}", validation=f"{row['validation_accuracy']:.4f}")
    return curve


def distillation_loss(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """Cross-entropy of the softened outputs [batch, classes], scaled by temperature squared as in arXiv:1503.02531."""
    targets = tf.nn.softmax(teacher / temperature)
    losses = tf.nn.softmax_cross_entropy_with_logits(tf.stop_gradient(targets), student / temperature)
    return temperature**2 * tf.reduce_mean(losses)


def batches(images: Images, recipe: Recipe, classes: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The augmented batches of a run.

    Pixels float32 [batch, side, side, 3] in 0..255, and targets float32 [batch, classes] that sum to 1.

    The order is a new permutation every epoch. A batch depends on the seed and its own step only.
    """
    count, side = len(images.labels), recipe.image_size
    slack = images.pixels.shape[1] - side + 1, images.pixels.shape[2] - side + 1
    for step in range(recipe.steps):
        positions = np.arange(step * recipe.batch_size, (step + 1) * recipe.batch_size)
        epochs, places = divmod(positions, count)
        chosen = np.array([_permutation(seed, e, count)[p] for e, p in zip(epochs, places, strict=True)])
        random = np.random.default_rng((seed, 1, step))
        tops, lefts = (random.integers(limit, size=len(chosen)) for limit in slack)
        mirrored = random.random(len(chosen)) < (0.5 if recipe.flip else 0)
        pixels = np.empty((len(chosen), side, side, 3), np.float32)
        for index, (image, top, left, mirror) in enumerate(zip(chosen, tops, lefts, mirrored, strict=True)):
            crop = images.pixels[image, top : top + side, left : left + side]
            pixels[index] = crop[:, ::-1] if mirror else crop
        targets = np.eye(classes, dtype=np.float32)[images.labels[chosen]]
        if recipe.mixup:
            share = np.float32(random.beta(recipe.mixup, recipe.mixup))
            partner = random.permutation(len(chosen))
            pixels, targets = (share * each + (1 - share) * each[partner] for each in (pixels, targets))
        yield pixels, targets


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def predict(model: tf.keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Logits float32 [count, classes] for images uint8 [count, height, width, 3]."""
    starts = tqdm(range(0, len(pixels), PREDICTION_BATCH), "predict", leave=False, disable=None)
    return np.concatenate([model.predict_on_batch(pixels[i : i + PREDICTION_BATCH].astype(np.float32)) for i in starts])
