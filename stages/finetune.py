"""Fine-tune the backbone on the data set by BiT-HyperRule.

    python -m stages.finetune

Params finetune, seed; data/dataset, models/backbone -> models/finetuned, metrics/finetune.json, plots/finetune/.

An interrupted run goes on from its last checkpoint. Of several hosts (finetune.devices: all_hosts) each runs this, on
its own copy of data and backbone and with its own TF_CONFIG; the first one writes the outputs.
"""

from contextlib import nullcontext

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.training import measures
from bitlite.training.checkpoint import Checkpoint
from bitlite.training.curves import logged
from bitlite.training.inference import predict
from bitlite.training.loop import Run, fit
from bitlite.training.step import first_host, strategy
from bitlite.workflow import command, metrics, scores
from bitlite.workflow.errors import under
from bitlite.workflow.files import whole, write_csv
from bitlite.workflow.params import load
from bitlite.workflow.paths import BACKBONE, FINETUNED, FINETUNED_PREDICTIONS, METRICS, PLOTS, interrupted


def main() -> None:
    params = load()
    devices = strategy(params.finetune.devices, params.finetune.threads)
    run = Run.on_dataset(params.finetune, params.seed)
    image_size, labels = (run.recipe.image_size, run.recipe.image_size), dataset.labels()
    bit = Bit.load(BACKBONE).with_head(labels, image_size)
    with devices.scope(), network.precision(params.finetune.precision):
        model = network.build(bit)
        network.set_trainable(model, params.finetune.trainable)

    many_hosts = params.finetune.devices == "all_hosts"
    if many_hosts and not first_host():
        with under("finetune"):
            return fit(model, run, desc="finetune")
    # Hosts would have to agree on the checkpoint that they go on from.
    identity = repr((dataset.digest(), params.backbone, params.finetune.deciding, params.seed))
    with (
        nullcontext() if many_hosts else Checkpoint(interrupted(), identity) as checkpoint,
        whole(PLOTS / "finetune") as plots,
    ):
        with logged(plots) as log, under("finetune"):
            fit(model, run, desc="finetune", log=log, checkpoint=checkpoint)

        bit = bit.with_weights(network.get_weights(model))
        pixels, truth = dataset.read("test", image_size)
        logits = predict(network.build(bit), pixels)
        bit.save(FINETUNED)
        write_csv(
            plots / FINETUNED_PREDICTIONS.name,
            scores.PREDICTION_COLUMNS,
            scores.predictions(scores.softmax(logits), truth, labels),
        )
        metrics.write(METRICS / "finetune.json", measures.of_model(bit, logits, truth))


if __name__ == "__main__":
    command.run(main)
