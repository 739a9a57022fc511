"""Prune the fine-tuned model and train it on until it has recovered.

    python -m stages.prune P

Params pruning.P, finetune, seed; data/dataset, models/finetuned, metrics/finetune.json -> models/pruned/P,
metrics/prune/P.json, plots/prune/P/.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from bitlite.bit.weights import Bit
from bitlite.training import measures
from bitlite.workflow import metrics, scores
from bitlite.workflow.command import run
from bitlite.workflow.files import write_csv
from bitlite.workflow.params import Params, Pruning, entry, load
from bitlite.workflow.paths import FINETUNED, METRICS, PLOTS, PRUNED

# Training images that importance is measured on: as many as these multiply-adds let through, within these bounds.
SAMPLE_MACS, SAMPLE = 2e11, (32, 512)
# Of them at once: gradients by all activations of a large model take memory.
SAMPLE_BATCH = 8


def main(name: str) -> None:
    params = load()
    how = entry(params.pruning, name)
    original = Bit.load(FINETUNED)
    if how.method == "none":
        # The same function as the fine-tuned model, so its metrics are that model's.
        bit, found = original.folded(), metrics.read(METRICS / "finetune.json", metrics.ModelScores)
        before = found.accuracy
    else:
        bit, found, before = pruned(original, name, params)
    bit.save(PRUNED / name)
    write_csv(PLOTS / "prune" / name / "layers.csv", measures.LAYER_COLUMNS, measures.layers(bit))
    metrics.write(
        METRICS / "prune" / f"{name}.json", metrics.PrunedScores(**vars(found), accuracy_before_recovery=before)
    )


def pruned(original: Bit, name: str, params: Params) -> tuple[Bit, metrics.ModelScores, float]:
    """The pruned and recovered model, its metrics, and its accuracy before recovery."""
    from bitlite.bit import network
    from bitlite.images import dataset
    from bitlite.pruning import pruning
    from bitlite.training import hyperrule, training
    from stages import finetune  # these bring TensorFlow, which an entry without pruning does not need

    recipe = finetune.recipe_of(params.finetune)
    train, validation = finetune.images_of(recipe, params.finetune.cache_mb)
    test, labels = dataset.read("test", original.architecture.image_size)
    folded, how = original.folded(), hyperrule.recovery(params.pruning[name], len(train.labels))
    sample = partial(sampled, train, recipe, folded, params.seed)
    at_once = pruning.prune(folded, how, sample)
    before = scores.accuracy(training.predict(network.build(at_once), test), labels)
    devices = training.strategy("one" if params.finetune.devices == "one" else "all")
    with finetune.logged(PLOTS / "prune" / name) as log, devices.scope(), network.precision(params.finetune.precision):
        bit = pruning.recover(folded, at_once, how, sample, recovery(original, train, validation, params, log))
    return bit, measures.of_model(bit, training.predict(network.build(bit), test), labels), before


def sampled(train, recipe, bit: Bit, seed: int) -> Iterator:
    """Batches of training images, without mixup, that importance for `bit` is measured on."""
    from bitlite.training import training

    fewest, most = SAMPLE
    count = int(min(max(SAMPLE_MACS // bit.macs, fewest), most))
    plain = replace(recipe, steps=count // SAMPLE_BATCH, batch_size=SAMPLE_BATCH, mixup=0.0)
    return training.batches(train, plain, len(bit.architecture.labels), seed)


def recovery(original: Bit, train, validation, params: Params, log: Callable) -> Callable:
    """Trains a pruned model as its entry says, `original` being the teacher; `log` counts on from part to part."""
    from bitlite.bit import network
    from bitlite.training import training
    from stages import finetune

    done = 0

    def recover(keras_model, how: Pruning) -> None:
        nonlocal done
        before = done
        # HyperRule's own is a tenth after each of its decays.
        shape = {"cosine": {"cosine": True}, "constant": {"decays": ()}}.get(how.learning_rate_schedule, {})
        teacher = None
        if how.distillation:
            teacher = training.Teacher(network.build(original), how.distillation, how.temperature)
        settings = params.finetune.model_copy(update=how.model_dump(include={"steps", "batch_size", "learning_rate"}))
        training.fit(
            keras_model,
            train,
            validation,
            # Folding makes kernels some ten times larger but not gammas and betas: steps follow each weight's scale.
            replace(finetune.recipe_of(settings), optimizer="adam", **shape),
            seed=params.seed,
            teacher=teacher,
            desc=f"recover by {how.steps} steps",
            log=lambda step, values: log(before + step, values),
        )
        done += how.steps

    return recover


if __name__ == "__main__":
    run(main)
