"""Training of a BiT: one loop for pretraining, fine-tuning and recovery after pruning."""

import functools
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bitlite.bit import network
from bitlite.images.pixels import Pixels
from bitlite.training.hyperrule import MOMENTUM, Recipe, learning_rate
from bitlite.workflow.errors import InputError
from bitlite.workflow.files import read_npz, remove, whole
from bitlite.workflow.scores import accuracy

# Points of a training curve, and how many of them have an accuracy on validation.
LOGGED, VALIDATED = 50, 10
PREDICTION_BATCH = 256
# The pixel that the network's normalisation makes 0.
GREY = 127.5

# Takes the number of steps done and values by name.
Log = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Images:
    """Images uint8 [count, height, width, 3] in 0..255, or their features, and their labels int32 [count]."""

    pixels: np.ndarray | Pixels
    labels: np.ndarray


@dataclass(frozen=True)
class Teacher:
    """Whose outputs a student follows (Hinton et al., arXiv:1503.02531): `weight` of the loss, at a temperature."""

    model: tf.keras.Model
    weight: float
    temperature: float


@dataclass(frozen=True)
class Checkpoint:
    """The file from which an interrupted run goes on. Written every so many `seconds`, removed when the run is done.

    identity: digest of the data. A file that another run left, by data, recipe, seed or first weights, is ignored.
    """

    path: Path
    identity: str
    seconds: float = 60


def strategy(devices: str) -> tf.distribute.Strategy:
    """What a model must be built under to train on `one` device, `all` GPUs of the host, or those of `all_hosts`.

    Hosts find each other by TF_CONFIG, so for them this must come before any other use of TensorFlow.
    """
    if devices == "all":
        return tf.distribute.MirroredStrategy()
    if devices == "all_hosts":
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def first_host() -> bool:
    """Whether this process is the first that TF_CONFIG names, or has no TF_CONFIG."""
    return json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("index", 0) == 0


def fit(
    model: tf.keras.Model,
    train: Images,
    validation: Images,
    recipe: Recipe,
    *,
    seed: int,
    teacher: Teacher | None = None,
    desc: str = "train",
    log: Log = lambda step, values: None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train the trainable weights of `model` in place, on the devices of the strategy it was built under.

    `train` is at the recipe's `resize`, `validation` at its `image_size`. `log` gets `loss`, `accuracy` (means over
    the batches since it was called last), `learning_rate`, and at times `validation_accuracy`. Equal arguments on an
    equal machine give bit-equal weights, interrupted or not. Raises InputError if the devices or the recipe's
    `batch_split` don't divide its `batch_size`.

    Where only the head is trained, on images that are the same in every epoch, features are computed once.
    """
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    run = checkpoint and _fingerprint(checkpoint.identity, recipe, seed, model.weights)
    if not recipe.augments and not teacher and network.only_head_trained(model):
        with model.distribute_strategy.scope():
            trunk, model = network.split(model)
        train, validation = (Images(predict(trunk, each.pixels), each.labels) for each in (train, validation))

    step, optimizer = training_step(model, recipe, teacher)
    forward = inference(model)
    variables = [*model.weights, *optimizer.variables]
    history, recent, first = [], [], 0
    if checkpoint:
        history, recent, first = _restore(checkpoint.path, run, variables)
    for entry in history:
        log(*entry)

    classes = model.output_shape[-1]
    log_at, validate_at = (
        {round(recipe.steps * (i + 1) / count) for i in range(count)} for count in (LOGGED, VALIDATED)
    )
    saved = time.monotonic()
    with tqdm(desc=desc, total=recipe.steps, initial=first, unit="step", disable=None) as progress:
        for done, batch in enumerate(ahead(batches(train, recipe, classes, seed, first)), start=first + 1):
            rate = learning_rate(done - 1, recipe)
            optimizer.learning_rate.assign(rate)
            recent.append(step(*batch))
            progress.update()
            if done in log_at | validate_at:
                loss, hits = np.mean(recent, axis=0)
                recent = []
                values = {"loss": float(loss), "accuracy": float(hits), "learning_rate": rate}
                if done in validate_at:
                    values["validation_accuracy"] = accuracy(predict(forward, validation.pixels), validation.labels)
                history.append((done, values))
                log(done, values)
                progress.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)
            if checkpoint and time.monotonic() - saved > checkpoint.seconds:
                _save(checkpoint.path, run, variables, history, recent, done)
                saved = time.monotonic()
    if checkpoint:
        remove(checkpoint.path)


def training_step(model: tf.keras.Model, recipe: Recipe, teacher: Teacher | None):
    """A function of one batch that updates `model` and returns the batch's mean loss and accuracy; its optimizer."""
    devices = model.distribute_strategy
    if recipe.batch_size % (devices.num_replicas_in_sync * recipe.batch_split):
        raise InputError(
            f"batch_size is {recipe.batch_size}, which {devices.num_replicas_in_sync} devices and a batch_split of "
            f"{recipe.batch_split} don't divide"
        )
    with devices.scope():
        decay = recipe.weight_decay or None
        if recipe.optimizer == "sgd":
            optimizer = tf.keras.optimizers.SGD(momentum=MOMENTUM, weight_decay=decay)
        else:
            optimizer = tf.keras.optimizers.Adam(weight_decay=decay)
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
        # Variables that the first step made would have it traced twice.
        optimizer.build(model.trainable_variables)

    def gradients_of(pixels, targets):
        with tf.GradientTape() as tape:
            logits = tf.cast(model(pixels, training=True), tf.float32)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            if teacher:
                followed = distillation_losses(teacher.model(pixels, training=False), logits, teacher.temperature)
                losses = (1 - teacher.weight) * losses + teacher.weight * followed
            loss = tf.reduce_sum(losses) / recipe.batch_size
        hits = tf.equal(tf.argmax(logits, axis=1), tf.argmax(targets, axis=1))
        share = tf.reduce_sum(tf.cast(hits, tf.float32)) / recipe.batch_size
        return tape.gradient(loss, model.trainable_variables), tf.stack([loss, share])

    def on_device(pixels, targets):
        if recipe.batch_split == 1:
            gradients, means = gradients_of(pixels, targets)
        else:
            parts = [tf.reshape(x, [recipe.batch_split, -1, *x.shape[1:]]) for x in (pixels, targets)]
            zeros = [tf.zeros(v.shape) for v in model.trainable_variables], tf.zeros(2)
            gradients, means = tf.foldl(
                lambda sums, part: tf.nest.map_structure(tf.add, sums, gradients_of(*part)), parts, zeros,
                parallel_iterations=1,
            )  # fmt: skip
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return means

    @tf.function
    def on_all_devices(pixels, targets):
        return devices.reduce("SUM", devices.run(on_device, (pixels, targets)), axis=None)

    def step(pixels, targets):
        shares = [np.split(x, devices.num_replicas_in_sync) for x in (pixels, targets)]
        return on_all_devices(
            *(
                devices.experimental_distribute_values_from_function(
                    lambda device, share=share: tf.constant(share[device.replica_id_in_sync_group])
                )
                for share in shares
            )
        ).numpy()

    return step, optimizer


def distillation_losses(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """Cross-entropies [batch] of softened outputs [batch, classes], by temperature squared as in arXiv:1503.02531."""
    targets = tf.nn.softmax(tf.cast(teacher, tf.float32) / temperature)
    losses = tf.nn.softmax_cross_entropy_with_logits(tf.stop_gradient(targets), student / temperature)
    return temperature**2 * losses


def _fingerprint(identity: str, recipe: Recipe, seed: int, weights: list[tf.Variable]) -> str:
    digest = hashlib.sha256(repr((identity, recipe, seed)).encode())
    for variable in weights:
        digest.update(variable.numpy().tobytes())
    return digest.hexdigest()


def _save(path: Path, run: str, variables: list[tf.Variable], history: list, recent: list, done: int) -> None:
    state = json.dumps({"run": run, "history": history, "done": done})
    arrays = {f"variable{index}": variable.numpy() for index, variable in enumerate(variables)}
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, state=state, recent=np.reshape(recent, (-1, 2)), **arrays)


def _restore(path: Path, run: str, variables: list[tf.Variable]) -> tuple[list, list, int]:
    """Set `variables` as the run with this fingerprint left them; its history, recent means and steps done."""
    try:
        arrays = read_npz(path)
        state = json.loads(str(arrays["state"]))
    except (OSError, ValueError, KeyError):
        return [], [], 0
    if state["run"] != run:
        return [], [], 0
    for index, variable in enumerate(variables):
        variable.assign(arrays[f"variable{index}"])
    return state["history"], list(arrays["recent"]), state["done"]


def ahead(items: Iterator, depth: int = 2) -> Iterator:
    """The same items, up to `depth` of which a thread prepares before they are asked for."""
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, items, None) for _ in range(depth))
        while (item := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, items, None))
            yield item


def batches(
    images: Images, recipe: Recipe, classes: int, seed: int, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The augmented batches of a run, from its step `first` on.

    Pixels float32 [batch, side, side, 3] in 0..255, and targets float32 [batch, classes] that sum to 1.

    The order is a new permutation every epoch. A batch depends on the seed and its own step only.
    """
    count, side = len(images.labels), recipe.image_size
    margin = recipe.padding
    slack = recipe.resize + 2 * margin - side + 1
    for step in range(first, recipe.steps):
        positions = np.arange(step * recipe.batch_size, (step + 1) * recipe.batch_size)
        epochs, places = divmod(positions, count)
        chosen = np.array([_permutation(seed, e, count)[p] for e, p in zip(epochs, places, strict=True)])
        pixels = images.pixels[chosen].astype(np.float32, copy=False)
        random = np.random.default_rng((seed, 1, step))
        tops, lefts = random.integers(slack, size=(2, len(chosen)))
        mirrored = random.random(len(chosen)) < (0.5 if recipe.flip else 0)
        if margin:
            pixels = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin), (0, 0)), constant_values=GREY)
        if slack > 1 or recipe.flip:
            corners = zip(pixels, tops, lefts, mirrored, strict=True)
            crops = ((image[top : top + side, left : left + side], mirror) for image, top, left, mirror in corners)
            pixels = np.stack([crop[:, ::-1] if mirror else crop for crop, mirror in crops])
        targets = np.eye(classes, dtype=np.float32)[images.labels[chosen]]
        if recipe.mixup:
            share = np.float32(random.beta(recipe.mixup, recipe.mixup))
            partner = random.permutation(len(chosen))
            pixels, targets = (share * each + (1 - share) * each[partner] for each in (pixels, targets))
        yield pixels, targets


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def inference(model: tf.keras.Model) -> Callable[[np.ndarray], tf.Tensor]:
    """`model` as a function of float32 images, traced once for batches of every size."""
    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    return tf.function(lambda pixels: model(pixels, training=False), input_signature=[images])


def predict(model: tf.keras.Model | Callable[[np.ndarray], tf.Tensor], pixels: np.ndarray | Pixels) -> np.ndarray:
    """Outputs float32 [count, ...] of `model`, or of its `inference`, for images uint8 [count, height, width, 3]."""
    forward = inference(model) if isinstance(model, tf.keras.Model) else model
    starts = tqdm(range(0, len(pixels), PREDICTION_BATCH), "predict", leave=False, disable=None)
    outputs = [forward(pixels[i : i + PREDICTION_BATCH].astype(np.float32, copy=False)) for i in starts]
    return np.concatenate([tf.cast(each, tf.float32).numpy() for each in outputs])
