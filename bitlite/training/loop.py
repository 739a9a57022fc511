"""Training of a BiT: one loop for pretraining, fine-tuning and recovery after pruning."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bitlite.bit import network
from bitlite.images import dataset
from bitlite.training.batches import Images, ahead, batches
from bitlite.training.checkpoint import Checkpoint, Progress
from bitlite.training.hosts import by_first, equalize
from bitlite.training.inference import inference, predict
from bitlite.training.recipe import Recipe, finetuning_recipe_on_dataset, hints, learning_rate
from bitlite.training.step import training_step
from bitlite.workflow.errors import WrongValue
from bitlite.workflow.params import Finetune
from bitlite.workflow.scores import accuracy

# Points of a training curve, and how many of them have an accuracy on validation.
LOGGED, VALIDATED = 50, 10
# A weight that grows to so many times the largest one at the start, or 1, runs away. Trained well they grow by a few
# per cent; a rate some 30 times too high for bit-tiny makes them 40 times as large and useless.
RUNAWAY = 100
# The highest rates worth a try, at which bit-tiny learns. From there on down a tenth each time: large models need less,
# and what BiT-HyperRule says for small batches is far below what small models need.
HIGHEST_RATE = {"sgd": 0.1, "adam": 0.01}

# Takes the number of steps done and values by name.
Log = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Run:
    """A recipe and its images: `train` at the recipe's `resize`, `validation` at its `image_size`."""

    recipe: Recipe
    train: Images
    validation: Images
    seed: int

    @classmethod
    def on_dataset(cls, params: Finetune, seed: int) -> "Run":
        """The fine-tuning that `params` ask for on the prepared data set."""
        recipe = finetuning_recipe_on_dataset(params)
        train = dataset.read("train", (recipe.resize, recipe.resize), cache_mb=params.cache_mb)
        validation = dataset.read("validation", (recipe.image_size, recipe.image_size))
        return cls(recipe, Images(*train), Images(*validation), seed)


def fit(
    model: tf.keras.Model,
    run: Run,
    *,
    teacher: tf.keras.Model | None = None,
    desc: str = "train",
    log: Log = lambda step, values: None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train the trainable weights of `model` in place, on the devices of the strategy it was built under.

    `teacher` is needed if the recipe `has_teacher`. `log` gets `loss`, `accuracy` (means over the batches since it
    was called last), `learning_rate`, and at times `validation_accuracy`. Equal arguments on an equal machine give
    bit-equal weights, interrupted or not; a training that is finished in `checkpoint` is not done again. Raises
    WrongValue if the devices or the recipe's `batch_split` don't divide its `batch_size`, and if the loss or the
    weights run away; then the checkpoint's run is removed.

    Of several hosts each calls this, the first one alone with a `checkpoint`, from which all go on.

    Where only the head is trained, on images that are the same in every epoch, features are computed once.
    """
    tf.keras.utils.set_random_seed(run.seed)
    tf.config.experimental.enable_op_determinism()
    fingerprint = checkpoint.fingerprint(run.recipe, run.seed, model, teacher) if checkpoint else ""
    most = RUNAWAY * max(1.0, _largest(model))
    if not run.recipe.augments and not run.recipe.has_teacher and network.only_head_trained(model):
        model, run = _on_features(model, run)

    step, optimizer = training_step(model, run.recipe, teacher)
    forward = inference(model)
    devices, variables = model.distribute_strategy, [*model.weights, *optimizer.variables]
    progress = by_first(devices, lambda: checkpoint.restore(fingerprint, variables) if checkpoint else Progress())
    equalize(devices, variables)
    for point in progress.curve:
        log(*point)

    steps, classes = run.recipe.steps, model.output_shape[-1]
    validate_at = _spread(VALIDATED, steps)
    log_at = _spread(LOGGED, steps) | validate_at
    coming = ahead(batches(run.train, run.recipe, classes, run.seed, progress.done))
    saved = time.monotonic()
    with tqdm(desc=desc, total=steps, initial=progress.done, unit="step", disable=None) as bar:
        for pixels, targets in coming:
            rate = learning_rate(progress.done, run.recipe)
            optimizer.learning_rate.assign(rate)
            progress.recent.append(step(pixels, targets, hints(progress.done, run.recipe)))
            progress.done += 1
            bar.update()
            if astray := _astray(run.recipe, progress, model, most, look=progress.done in log_at):
                if checkpoint:
                    checkpoint.remove()
                raise astray
            if progress.done in log_at:
                loss, hits = np.mean(progress.recent, axis=0)
                progress.recent = []
                values = {"loss": float(loss), "accuracy": float(hits), "learning_rate": rate}
                if progress.done in validate_at:
                    outputs = predict(forward, run.validation.pixels)
                    values["validation_accuracy"] = accuracy(outputs, run.validation.labels)
                progress.curve.append((progress.done, values))
                log(progress.done, values)
                bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)
            if checkpoint and time.monotonic() - saved > checkpoint.seconds:
                checkpoint.save(fingerprint, variables, progress)
                saved = time.monotonic()
    if checkpoint:
        checkpoint.save(fingerprint, variables, progress)


def _largest(model: tf.keras.Model) -> float:
    """The largest absolute value of the weights that are trained, NaN if one is."""
    return float(np.max([tf.reduce_max(tf.abs(each)) for each in model.trainable_variables]))


def _astray(recipe: Recipe, progress: Progress, model: tf.keras.Model, most: float, *, look: bool) -> WrongValue | None:
    """What is wrong with the last step, if something is: its loss or, where `look` asks for them, the weights."""
    if not np.isfinite(progress.recent[-1][0]):
        wrong = "the loss is not finite"
        if progress.done == 1 and recipe.distillation:  # no weight had changed before
            return WrongValue(f"temperature is {recipe.temperature:g}: at step 1 {wrong}; try 2")
    elif look and not (largest := _largest(model)) <= most:
        wrong = f"a weight has grown to {largest:.2g}"
    else:
        return None
    rate = min(recipe.learning_rate / 10, HIGHEST_RATE[recipe.optimizer])
    return WrongValue(f"learning_rate is {recipe.learning_rate:g}: at step {progress.done} {wrong}; try {rate:.1g}")


def _on_features(model: tf.keras.Model, run: Run) -> tuple[tf.keras.Model, Run]:
    """The head of `model`, and `run` with the trunk's features in place of the images."""
    with model.distribute_strategy.scope():
        trunk, head = network.split(model)
    train, validation = (Images(predict(trunk, each.pixels), each.labels) for each in (run.train, run.validation))
    return head, replace(run, train=train, validation=validation)


def _spread(count: int, steps: int) -> set[int]:
    """About `count` of the steps 1..`steps`, evenly spread, with the last among them."""
    return {round(steps * (i + 1) / count) for i in range(count)}
