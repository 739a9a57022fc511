"""Which differences of accuracy are noise: McNemar's test on the test images, which all variants share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import bdtr

from bitlite.workflow.errors import InputError
from bitlite.workflow.files import read_csv, text

# From this p-value on, a difference counts as noise.
NOISE = 0.05


@dataclass(frozen=True)
class Difference:
    """What the test images tell of a variant against another one.

    gained: images that it gets right and the other does not. lost: those that only the other gets right.
    p: how probable it is that chance parts two equally accurate variants as far as that, 0..1, after Holm's correction.
    """

    gained: int
    lost: int
    p: float

    @property
    def tie(self) -> bool:
        """Whether it can't be told from chance; that is no proof that both are equally accurate."""
        return self.p >= NOISE


def read(names: Iterable[str], plots: Path) -> dict[str, np.ndarray]:
    """By variant, whether it puts each test image into its class, bool [images]; from `plots`/evaluate.

    Raises InputError if a variant has no predictions, or some of other images than the first one's.
    """
    right: dict[str, np.ndarray] = {}
    images: list[str] = []
    for name in names:
        path = plots / "evaluate" / name / "predictions.csv"
        rows = read_csv(path, {"actual": text, "predicted": text})
        shown = [row["actual"] for row in rows]
        if shown != (images := images or shown):
            raise InputError(f"{path} is of other test images than {next(iter(right))}'s: run `dvc repro`")
        right[name] = np.array([row["actual"] == row["predicted"] for row in rows])
    return right


def differences(right: Mapping[str, np.ndarray], other: str) -> dict[str, Difference]:
    """Each variant but `other` against that one; p by McNemar's test, with Holm's correction over all of them."""
    counts = {
        name: (int(np.sum(hits & ~right[other])), int(np.sum(right[other] & ~hits)))
        for name, hits in right.items()
        if name != other
    }
    corrected = holm([mcnemar(*pair) for pair in counts.values()])
    return {name: Difference(*pair, p) for (name, pair), p in zip(counts.items(), corrected, strict=True)}


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value: were both as accurate, each image that tells them apart would toss a fair coin.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12 (1947).
    """
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values such that, if nothing differs, one of all of them is below 0.05 with a probability of at most 0.05.

    Uncorrected, one in twenty equally accurate variants would be called different. It holds whatever the tests have in
    common: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. of Statistics 6 (1979).
    """
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected
