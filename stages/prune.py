"""Prune the fine-tuned model and train it on until it has recovered.

    python -m stages.prune P

Params pruning.P, finetune, seed; data/dataset, models/finetuned, metrics/finetune.json -> models/pruned/P,
metrics/prune/P.json, plots/prune/P/.

An interrupted recovery goes on from its last checkpoint.
"""

from bitlite.bit.weights import Bit
from bitlite.training import measures
from bitlite.workflow import command, metrics
from bitlite.workflow.errors import under
from bitlite.workflow.files import write_csv
from bitlite.workflow.metrics import ModelScores, PrunedScores
from bitlite.workflow.params import load
from bitlite.workflow.paths import FINETUNED, METRICS, PLOTS, PRUNED


def main(name: str) -> None:
    params = load()
    pruning = params.entry("pruning", name)
    finetuned = Bit.load(FINETUNED)
    if pruning.method == "none":
        # The same function as the fine-tuned model, so its metrics are that model's.
        scores = metrics.read(METRICS / "finetune.json", ModelScores)
        bit = finetuned.folded()
        scores = PrunedScores(**vars(scores), accuracy_before_recovery=scores.accuracy, frozen_norms=0)
    else:
        from bitlite.pruning.recovery import prune_and_recover  # brings TensorFlow, which takes seconds to import

        with under(f"pruning.{name}"):
            bit, scores = prune_and_recover(finetuned, pruning, params, PLOTS / "prune" / name)
    bit.save(PRUNED / name)
    write_csv(PLOTS / "prune" / name / "layers.csv", measures.LAYER_COLUMNS, measures.layers(bit))
    metrics.write(METRICS / "prune" / f"{name}.json", scores)


if __name__ == "__main__":
    command.run(main)
