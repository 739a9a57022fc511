"""Prune the fine-tuned model and train it on until it has recovered.

    python -m stages.prune P

Params pruning.P, finetune, seed; data/dataset, models/finetuned, metrics/finetune.json -> models/pruned/P,
metrics/prune/P.json, plots/prune/P/.
"""

import json
from dataclasses import replace
from functools import partial

from stages import run, scores
from stages.artifacts import FINETUNED, METRICS, PLOTS, PRUNED, write_csv, write_json
from stages.bit import model
from stages.params import Params, entry, load


def main(name: str) -> None:
    params = load()
    how = entry(params.pruning, name)
    original = model.load(FINETUNED)
    if how.method == "none":
        # The same function as the fine-tuned model, so its metrics are that model's.
        bit, metrics = model.fold(original), json.loads((METRICS / "finetune.json").read_text())
    else:
        bit, metrics = pruned(original, name, params)
    model.save(bit, PRUNED / name)
    write_csv(PLOTS / "prune" / name / "layers.csv", scores.LAYER_COLUMNS, scores.layers(bit))
    write_json(METRICS / "prune" / f"{name}.json", metrics)


def pruned(original: model.Bit, name: str, params: Params) -> tuple[model.Bit, dict]:
    """The pruned and recovered model, and its metrics."""
    from stages import finetune  # these bring TensorFlow, which an entry without pruning does not need
    from stages.bit import network, pruning, training
    from stages.images import dataset

    how = params.pruning[name]
    recovery = how.model_dump(include={"steps", "batch_size", "learning_rate"})
    recipe, train, validation = finetune.training_run(params.finetune.model_copy(update=recovery))
    # Folding makes kernels some ten times larger but not gammas and betas: steps must follow each weight's own scale.
    recipe = replace(recipe, optimizer="adam")
    devices = training.strategy("one" if params.finetune.devices == "one" else "all")
    with finetune.logged(PLOTS / "prune" / name) as log, devices.scope(), network.precision(params.finetune.precision):
        fit = partial(
            training.fit, train=train, validation=validation, recipe=recipe, seed=params.seed, desc=f"recover {name}",
            teacher=training.Teacher(network.build(original), how.distillation, how.temperature), log=log,
        )  # fmt: skip
        bit = pruning.prune(model.fold(original), how, fit)
    pixels, labels = dataset.read("test", bit.architecture.image_size)
    return bit, scores.of_model(bit, training.predict(network.build(bit), pixels), labels)


if __name__ == "__main__":
    run(main)
