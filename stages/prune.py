"""Prune the fine-tuned model and train it on until it has recovered.

    python -m stages.prune P

Params pruning.P, finetune, seed; data/dataset, models/finetuned, metrics/finetune.json -> models/pruned/P,
metrics/prune/P.json, plots/prune/P/.

An interrupted recovery goes on from its last checkpoint.
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
    finetuned = Bit.load(FINETUNED)
    if pruning.method == "none":
        # The same function as the fine-tuned model, so its metrics are that model's.
        scores = metrics.read(METRICS / "finetune.json", ModelScores)
        scores = PrunedScores(**vars(scores), accuracy_before_recovery=scores.accuracy, frozen_norms=0)
        with whole(PLOTS / "prune" / name) as plots:
            return write(name, plots, finetuned.folded(), scores)

    # These bring TensorFlow, which takes seconds to import.
    from bitlite.pruning.recovery import prune_and_recover
    from bitlite.training.checkpoint import Checkpoint

    identity = repr((dataset.digest(), params.backbone, params.finetune.deciding, params.seed, pruning))
    with Checkpoint(interrupted(), identity) as checkpoint, whole(PLOTS / "prune" / name) as plots:
        with under(f"pruning.{name}"):
            bit, scores = prune_and_recover(finetuned, pruning, params, plots, checkpoint)
        write(name, plots, bit, scores)


def write(name: str, plots: Path, bit: Bit, scores: PrunedScores) -> None:
    bit.save(PRUNED / name)
    write_csv(plots / "layers.csv", measures.LAYER_COLUMNS, measures.layers(bit))
    metrics.write(METRICS / "prune" / f"{name}.json", scores)


if __name__ == "__main__":
    command.run(main)
