"""Prune the fine-tuned model and train it on until it has recovered.

    python -m stages.prune P

Params pruning.P, finetune, seed; data/dataset, models/finetuned, metrics/finetune.json -> models/pruned/P,
metrics/prune/P.json, plots/prune/P/.

An interrupted recovery goes on from its last checkpoint. Of several hosts (finetune.devices: all_hosts) each runs this,
on its own copy of data/dataset and with its own TF_CONFIG, for each P that prunes; the first one alone reads models/,
measures and cuts, keeps checkpoints and writes the outputs.
"""

from pathlib import Path

from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.training import measures
from bitlite.workflow import command, metrics
from bitlite.workflow.errors import under
from bitlite.workflow.files import whole, write_csv
from bitlite.workflow.metrics import ModelScores, PrunedScores
from bitlite.workflow.params import load
from bitlite.workflow.paths import FINETUNED, METRICS, PLOTS, PRUNED, interrupted


def main(name: str) -> None:
    params = load()
    pruning = params.entry("pruning", name)
    if pruning.method == "none":
        # The same function as the fine-tuned model, so its metrics are that model's.
        scores = metrics.read(METRICS / "finetune.json", ModelScores)
        scores = PrunedScores(**vars(scores), accuracy_before_recovery=scores.accuracy, frozen_norms=0)
        with whole(PLOTS / "prune" / name) as plots:
            return write(name, plots, Bit.load(FINETUNED).folded(), scores)

    # These bring TensorFlow, which takes seconds to import.
    from bitlite.pruning.recovery import prune_and_recover
    from bitlite.training import hosts
    from bitlite.training.checkpoint import Checkpoint
    from bitlite.training.curves import logged
    from bitlite.training.step import strategy

    devices = strategy(params.finetune.devices, params.finetune.threads)
    identity = repr((dataset.digest(), params.backbone, params.finetune.deciding, params.seed, pruning))
    with hosts.together(devices, identity), under(f"pruning.{name}"):
        finetuned = hosts.by_first(devices, lambda: Bit.load(FINETUNED))
        if not hosts.first(devices):
            prune_and_recover(finetuned, pruning, params, devices)
            return
        with Checkpoint(interrupted(), identity) as checkpoint, whole(PLOTS / "prune" / name) as plots:
            with logged(plots) as log:
                bit, scores = prune_and_recover(finetuned, pruning, params, devices, log=log, checkpoint=checkpoint)
            write(name, plots, bit, scores)


def write(name: str, plots: Path, bit: Bit, scores: PrunedScores) -> None:
    bit.save(PRUNED / name)
    write_csv(plots / "layers.csv", measures.LAYER_COLUMNS, measures.layers(bit))
    metrics.write(METRICS / "prune" / f"{name}.json", scores)


if __name__ == "__main__":
    command.run(main)
