"""Recovery: the training that follows pruning, with the data and the augmentation of fine-tuning."""

from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.pruning.importance import sampled
from bitlite.pruning.methods import prune
from bitlite.pruning.zeros import zeroed
from bitlite.training import hyperrule, measures
from bitlite.training.curves import logged
from bitlite.training.inference import predict
from bitlite.training.loop import Log, Run, fit
from bitlite.training.recipe import Recipe
from bitlite.training.step import strategy
from bitlite.workflow.metrics import PrunedScores
from bitlite.workflow.params import NM, Magnitude, Params, Pruning, Recovery
from bitlite.workflow.scores import accuracy

# `steps: auto` is this share of BiT-HyperRule's steps, so that larger data sets get more.
AUTO_STEPS = 0.3


def recovery_recipe(entry: Recovery, finetuning: Recipe, *, examples: int) -> Recipe:
    """The recipe by which a model recovers from `entry` that was fine-tuned by `finetuning`, on so many images.

    The entry says how long and how fast; sizes of images, augmentation and weight decay are those of fine-tuning.
    """
    rule = hyperrule.schedule(examples)
    steps = round(AUTO_STEPS * rule.steps) if entry.steps == "auto" else entry.steps
    return replace(
        finetuning,
        **rule.stretched(steps)._asdict(),
        **entry.model_dump(
            include={"batch_size", "learning_rate", "learning_rate_schedule", "distillation", "temperature"}
        ),
        # Folding makes kernels some ten times larger but not gammas and betas: steps follow each weight's scale.
        optimizer="adam",
    )


def recover(pruned: Bit, finetuned: Bit, entry: Pruning, run: Run, log: Log = lambda step, values: None) -> Bit:
    """The BiT `pruned` after recovery, with the images, augmentation and seed of `run`, the fine-tuning.

    `pruned` is what `prune` makes of the folded `finetuned`, which is also the teacher where `entry` has distillation.
    Zeros come while training goes on. Of a combination each part is recovered before the next one prunes, and the steps
    that `log` gets count on from part to part.
    """
    bit = finetuned.folded()
    sample = partial(sampled, run, bit)
    recipes = [recovery_recipe(part, run.recipe, examples=len(run.train.labels)) for part in entry.parts]
    done_before = accumulate((each.steps for each in recipes[:-1]), initial=0)
    for part, recipe, done in zip(entry.parts, recipes, done_before, strict=True):
        at_once = pruned if part is entry else prune(bit, part, sample)  # an entry of one part is pruned already
        if not recipe.steps:
            bit = at_once
            continue
        train = partial(
            fit,
            run=replace(run, recipe=recipe),
            teacher=network.build(finetuned) if recipe.distillation else None,
            desc=f"recover by {recipe.steps} steps",
            log=partial(_counted_on, log, done),
        )
        if isinstance(part, Magnitude | NM):
            bit = zeroed(bit, part, recipe.steps, train)
        else:
            model = network.build(at_once)
            train(model)
            bit = at_once.with_weights(network.get_weights(model))
    return bit


def _counted_on(log: Log, done: int, step: int, values: dict[str, float]) -> None:
    log(done + step, values)


def prune_and_recover(finetuned: Bit, entry: Pruning, params: Params, curves: Path) -> tuple[Bit, PrunedScores]:
    """The fine-tuned BiT pruned as `entry` says and recovered, and its metrics, on the prepared data set.

    Curves of the recovery go to the directory `curves`. Raises InputError if `entry` can't be done.
    """
    run = Run.on_dataset(params.finetune, params.seed)
    test, labels = dataset.read("test", finetuned.architecture.image_size)
    folded = finetuned.folded()
    at_once = prune(folded, entry, partial(sampled, run, folded))
    before = accuracy(predict(network.build(at_once), test), labels)
    devices = strategy("one" if params.finetune.devices == "one" else "all")
    with logged(curves) as log, devices.scope(), network.precision(params.finetune.precision):
        bit = recover(at_once, finetuned, entry, run, log)
    scores = measures.of_model(bit, predict(network.build(bit), test), labels)
    return bit, PrunedScores(**vars(scores), accuracy_before_recovery=before)
