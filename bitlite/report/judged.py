"""What evaluation tells of the variants beside their metrics: how sure they are, and how right for each class."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bitlite.workflow.errors import missing
from bitlite.workflow.files import read_csv

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
    """What lies in `plots`/evaluate. Raises InputError if a file is missing."""

    def rows(name: str, file: str) -> list[dict[str, str]]:
        path = plots / "evaluate" / name / file
        if not path.exists():
            raise missing(path)
        return read_csv(path)

    def share(text: str) -> float | None:
        return float(text) if text else None

    scores = {name: {row["score"]: float(row["value"]) for row in rows(name, "scores.csv")} for name in names}
    classes = [
        Class(row["class"], int(row["images"]), share(row["recall"]), share(row["precision"]))
        for row in rows(foremost, "classes.csv")
    ]
    return Judged(scores, sorted(classes, key=lambda each: (each.recall is None, each.recall, each.name)))
