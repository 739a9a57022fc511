"""What evaluation tells of the variants beside their metrics: how sure they are, and how right for each class."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bitlite.workflow.errors import damaged, listed
from bitlite.workflow.files import read_csv
from bitlite.workflow.scores import CLASS_COLUMNS, SCORE_COLUMNS

# What the numbers of plots/evaluate/P-Q/scores.csv are called and mean.
MEANINGS = {
    "log_loss": ("Log loss", "mean of -ln of the probability of the right class"),
    "calibration_error": (
        "Calibration error",
        "how far confidence is off accuracy: the mean difference of the two over images of about the same confidence",
    ),
    "confidence_change": (
        "Change of confidence",
        "mean difference of an image's confidence from the unconverted model's",
    ),
}


@dataclass(frozen=True)
class Class:
    """A class: test images that show it, the share of these that are put into it, and of those put into it that do.

    recall, precision: 0..1; None where there are no such images.
    """

    name: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class Judged:
    """scores: the numbers of MEANINGS by variant. classes: of the foremost variant, those of the least recall first."""

    scores: dict[str, dict[str, float]]
    classes: list[Class]


def read(names: Iterable[str], foremost: str, plots: Path) -> Judged:
    """What lies in `plots`/evaluate. Raises InputError if a file is missing or damaged."""

    def share(text: str) -> float | None:
        return float(text) if text else None

    def scores_of(name: str) -> dict[str, float]:
        path = plots / "evaluate" / name / "scores.csv"
        found = {row["score"]: float(row["value"]) for row in read_csv(path, SCORE_COLUMNS)}
        if found.keys() != MEANINGS.keys():
            raise damaged(path, f"has other scores than {listed(MEANINGS)}")
        return found

    scores = {name: scores_of(name) for name in names}
    classes = [
        Class(row["class"], int(row["images"]), share(row["recall"]), share(row["precision"]))
        for row in read_csv(plots / "evaluate" / foremost / "classes.csv", CLASS_COLUMNS)
    ]
    return Judged(scores, sorted(classes, key=lambda each: (each.recall is None, each.recall, each.name)))
