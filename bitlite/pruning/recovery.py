"""Recovery: the training that follows pruning, with the data and the augmentation of fine-tuning."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import tensorflow as tf

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.pruning.importance import sampled
from bitlite.pruning.methods import once, prune
from bitlite.pruning.quantizing import trained
from bitlite.pruning.zeros import zeroed
from bitlite.training import measures
from bitlite.training.checkpoint import Checkpoint
from bitlite.training.hosts import by_first
from bitlite.training.inference import predict
from bitlite.training.loop import Log, Run, fit
from bitlite.training.recipe import Recipe, recovery_recipes
from bitlite.workflow.errors import under
from bitlite.workflow.metrics import PrunedScores
from bitlite.workflow.params import NM, Magnitude, Params, Part, Pruning, Quantize, Recovery, keyed
from bitlite.workflow.scores import accuracy

# Trains a model in place; `fit` with its run, log and checkpoint.
Train = Callable[..., None]


def recover(
    pruned: Bit,
    finetuned: Bit,
    entry: Pruning,
    run: Run,
    log: Log = lambda step, values: None,
    checkpoint: Checkpoint | None = None,
    devices: tf.distribute.Strategy | None = None,
) -> Bit:
    """The BiT `pruned` after recovery on `devices`, by the images, augmentation and seed of `run`, the fine-tuning.

    `pruned` is what `prune` makes of the folded `finetuned`, which is also the teacher where `entry` has distillation
    or hints. Zeros come while training goes on. Of a combination each part is recovered before the next one prunes, and
    of a part with rounds each cut before the next; the steps that `log` gets count on throughout. An interrupted
    recovery goes on from `checkpoint`, whose identity tells `entry`, and gives what an unbroken one gives: channels are
    cut anew, by the same weights, though by another measurement if they have a target_latency. Of several hosts
    each calls this, the first one alone with a `checkpoint`; it alone cuts. Raises WrongValue as `prune` and `fit` do.
    """
    devices, bit = devices or tf.distribute.get_strategy(), finetuned.folded()
    sample, done = partial(sampled, run, bit), 0
    for key, part in keyed(entry):
        whole, recipes = bit, recovery_recipes(part, run.recipe, examples=len(run.train.labels))
        cuts: tuple[Part, ...] = part.cuts
        for cut, recipe in zip(cuts, recipes, strict=True):
            log_on = partial(_counted_on, log, done)
            train = partial(fit, run=replace(run, recipe=recipe), log=log_on, checkpoint=checkpoint)
            done += recipe.steps
            with under(key):
                only = part is entry and len(recipes) == 1  # which is pruned already
                at_once = pruned if only else by_first(devices, partial(once, bit, cut, sample, whole))
                with devices.scope():
                    bit = _trained_on(at_once, bit, cut, recipe, train, finetuned) if recipe.steps else at_once
    return bit


def _trained_on(at_once: Bit, before: Bit, part: Recovery, recipe: Recipe, train: Train, finetuned: Bit) -> Bit:
    """`at_once`, which `part` made of `before`, trained by `recipe`; zeros come into `before` meanwhile."""
    train = partial(
        train,
        teacher=network.build(finetuned) if recipe.has_teacher else None,
        desc=f"recover by {recipe.steps} steps",
    )
    if isinstance(part, Magnitude | NM):
        return zeroed(before, part, recipe.steps, train)
    if isinstance(part, Quantize):
        return trained(before, at_once, part, train)
    # Standardised kernels learn faster (Qiao et al., arXiv:1903.10520). Before frozen norms, whose deviations are those
    # of the kernels as they were, they would compute something else.
    exact = not at_once.architecture.frozen_norms
    bit = at_once.with_weights(at_once.weights, standardized=True) if exact else at_once
    model = network.build(bit)
    train(model)
    return bit.with_weights(network.get_weights(model)).folded()


def _counted_on(log: Log, done: int, step: int, values: dict[str, float]) -> None:
    log(done + step, values)


def prune_and_recover(
    finetuned: Bit, entry: Pruning, params: Params, devices: tf.distribute.Strategy, **options
) -> tuple[Bit, PrunedScores]:
    """The fine-tuned BiT pruned as `entry` says and, by `recover` with its `options`, recovered; and its metrics.

    That is on the prepared data set. Raises InputError if `entry` can't be done.
    """
    run = Run.on_dataset(params.finetune, params.seed)
    test, labels = dataset.read("test", finetuned.architecture.image_size)
    folded = finetuned.folded()
    at_once = by_first(devices, lambda: prune(folded, entry, partial(sampled, run, folded)))
    before = accuracy(predict(network.build(at_once), test), labels)
    with network.precision(params.finetune.precision):
        bit = recover(at_once, finetuned, entry, run, devices=devices, **options)
    scores = measures.of_model(bit, predict(network.build(bit), test), labels)
    return bit, PrunedScores(
        **vars(scores), accuracy_before_recovery=before, frozen_norms=len(bit.architecture.frozen_norms)
    )
