"""Fine-tune the backbone on the data set by BiT-HyperRule.

    python -m stages.finetune

Params finetune, seed; data/dataset, models/backbone -> models/finetuned, metrics/finetune.json, plots/finetune/.

An interrupted run goes on from its last checkpoint. Of several hosts (finetune.devices: all_hosts) each runs this, on
its own copy of data and backbone and with its own TF_CONFIG; the first one writes the outputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dvclive import Live
from scmrepo.exceptions import SCMError

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.training import hyperrule, measures, training
from bitlite.workflow import metrics, scores
from bitlite.workflow.command import run
from bitlite.workflow.errors import InputError
from bitlite.workflow.files import write_csv
from bitlite.workflow.params import Finetune, load
from bitlite.workflow.paths import BACKBONE, FINETUNED, FINETUNED_PREDICTIONS, INTERRUPTED, METRICS, PLOTS


def recipe_of(params: Finetune) -> hyperrule.Recipe:
    """The recipe that `params` means for the prepared data set."""
    # The rule alone asks for the size of every image, which takes seconds to read where there are many.
    area = dataset.median_area() if "auto" in (params.image_size, params.resize) else 0
    return hyperrule.recipe(params, image_area=area, examples=dataset.count("train"))


def images_of(recipe: hyperrule.Recipe, cache_mb: int) -> tuple[training.Images, training.Images]:
    """The images for training and validation, of which memory keeps those for training up to `cache_mb`."""
    train = dataset.read("train", (recipe.resize, recipe.resize), cache_mb=cache_mb)
    validation = dataset.read("validation", (recipe.image_size, recipe.image_size))
    return training.Images(*train), training.Images(*validation)


@contextmanager
def logged(directory: Path) -> Iterator[training.Log]:
    """Curves as DVCLive writes them while training goes on: `directory`/plots/metrics/NAME.tsv."""
    try:
        live = Live(str(directory), save_dvc_exp=False, dvcyaml=None)
    except SCMError as error:
        raise InputError(
            f"DVCLive needs a Git repository with a commit ({error}): git commit, then run again"
        ) from error
    with live:

        def log(step: int, values: dict[str, float]) -> None:
            live.step = step
            for name, value in values.items():
                live.log_metric(name, value)

        yield log


def main() -> None:
    params = load()
    devices = training.strategy(params.finetune.devices)
    labels = dataset.labels()
    recipe = recipe_of(params.finetune)
    train, validation = images_of(recipe, params.finetune.cache_mb)

    crop = (recipe.image_size, recipe.image_size)
    bit = Bit.load(BACKBONE).with_head(labels, crop)
    with devices.scope(), network.precision(params.finetune.precision):
        keras_model = network.build(bit)
        network.set_trainable(keras_model, params.finetune.trainable)
    fit = partial(training.fit, keras_model, train, validation, recipe, seed=params.seed, desc="finetune")
    if params.finetune.devices == "all_hosts":
        # Hosts would have to agree on the checkpoint that they go on from.
        checkpoint = None
        if not training.first_host():
            return fit()
    else:
        checkpoint = training.Checkpoint(INTERRUPTED, dataset.digest())
    with logged(PLOTS / "finetune") as log:
        fit(log=log, checkpoint=checkpoint)
    bit = bit.with_weights(network.get_weights(keras_model))

    test = training.Images(*dataset.read("test", crop))
    logits = training.predict(network.build(bit), test.pixels)
    bit.save(FINETUNED)
    write_csv(FINETUNED_PREDICTIONS, scores.PREDICTION_COLUMNS, scores.predictions(logits, test.labels, labels))
    metrics.write(METRICS / "finetune.json", measures.of_model(bit, logits, test.labels))


if __name__ == "__main__":
    run(main)
