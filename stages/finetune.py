"""Fine-tune the backbone on the data set by BiT-HyperRule.

    python -m stages.finetune

Params finetune, seed; data/dataset, models/backbone -> models/finetuned, metrics/finetune.json, plots/finetune/.

An interrupted run goes on from its last checkpoint. Of several hosts (finetune.devices: all_hosts) each runs this, on
its own copy of data/dataset and with its own TF_CONFIG; the first one alone reads the backbone, keeps checkpoints and
writes the outputs.
"""

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.training import hosts, measures
from bitlite.training.checkpoint import Checkpoint
from bitlite.training.curves import logged
from bitlite.training.inference import predict
from bitlite.training.loop import Run, fit
from bitlite.training.step import strategy
from bitlite.workflow import command, metrics, scores
from bitlite.workflow.errors import under
from bitlite.workflow.files import whole, write_csv
from bitlite.workflow.params import Params, load
from bitlite.workflow.paths import BACKBONE, FINETUNED, FINETUNED_PREDICTIONS, METRICS, PLOTS, interrupted


def main() -> None:
    params = load()
    devices = strategy(params.finetune.devices, params.finetune.threads)
    identity = repr((dataset.digest(), params.backbone, params.finetune.deciding, params.seed))
    with hosts.together(devices, identity):
        if not hosts.first(devices):
            finetuned(params, devices)
            return
        with Checkpoint(interrupted(), identity) as checkpoint, whole(PLOTS / "finetune") as plots:
            with logged(plots) as log:
                bit = finetuned(params, devices, log=log, checkpoint=checkpoint)
            pixels, truth = dataset.read("test", bit.architecture.image_size)
            logits = predict(network.build(bit), pixels)
            bit.save(FINETUNED)
            write_csv(
                plots / FINETUNED_PREDICTIONS.name,
                scores.PREDICTION_COLUMNS,
                scores.predictions(scores.softmax(logits), truth, bit.architecture.labels),
            )
            metrics.write(METRICS / "finetune.json", measures.of_model(bit, logits, truth))


def finetuned(params: Params, devices: hosts.Devices, **options) -> Bit:
    """The backbone after `fit`, on all hosts of `devices`, with its `options`."""
    run = Run.on_dataset(params.finetune, params.seed)
    size = (run.recipe.image_size, run.recipe.image_size)
    bit = hosts.by_first(devices, lambda: Bit.load(BACKBONE).with_head(dataset.labels(), size))
    with devices.scope(), network.precision(params.finetune.precision):
        model = network.build(bit)
        network.set_trainable(model, params.finetune.trainable)
    with under("finetune"):
        fit(model, run, desc="finetune", **options)
    return bit.with_weights(network.get_weights(model))


if __name__ == "__main__":
    command.run(main)
