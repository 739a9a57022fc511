"""The origin of the variants: data set, backbone, and the models before conversion."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitlite.bit.weights import Architecture
from bitlite.workflow import metrics
from bitlite.workflow.metrics import ModelScores, PrunedScores
from bitlite.workflow.params import Params


@dataclass(frozen=True)
class Origin:
    """Names from params.yaml, and the models before conversion.

    labels: class names in the order of the outputs. image_size: height and width in pixels.
    pruned: the scores of every pruned model, by name of the pruning.
    """

    dataset: str
    backbone: str
    seed: int
    image_size: tuple[int, int]
    labels: tuple[str, ...]
    finetuned: ModelScores
    pruned: Mapping[str, ModelScores]


def read(params: Params, finetuned: Architecture, directory: Path) -> Origin:
    """The origin, with the scores from `directory`/finetune.json and /prune. Raises InputError as `metrics.read`."""
    return Origin(
        dataset=params.dataset.name,
        backbone=params.backbone.name,
        seed=params.seed,
        image_size=finetuned.image_size,
        labels=finetuned.labels,
        finetuned=metrics.read(directory / "finetune.json", ModelScores),
        pruned={name: metrics.read(directory / "prune" / f"{name}.json", PrunedScores) for name in params.pruning},
    )
