"""What the scheme mixed tried, step by step, as the stage convert wrote it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitlite.workflow.errors import missing
from bitlite.workflow.files import read_csv
from bitlite.workflow.params import Mixed, Quantization


@dataclass(frozen=True)
class Step:
    """A convolution that takes a type; the first step, which has neither, is the float32 file.

    snr_db: of the logits with this convolution alone in that type; None if nothing is off. size_bytes, latency_ms and
    lost, the accuracy on validation that the file after this step lacks against float32, are None where not measured.
    """

    number: int
    layer: str
    type: str
    snr_db: float | None
    size_bytes: int | None
    latency_ms: float | None
    lost: float | None
    chosen: bool

    @property
    def tried(self) -> bool:
        """Whether the file after this step was measured."""
        return self.lost is not None


@dataclass(frozen=True)
class Search:
    """The steps of one variant in their order, and the accuracy that they might lose."""

    steps: Sequence[Step]
    max_accuracy_drop: float

    @property
    def tried(self) -> list[Step]:
        return [step for step in self.steps if step.tried]

    @property
    def chosen(self) -> Step:
        """The step at which the variant's file stands."""
        return [step for step in self.steps if step.chosen][-1]


def read(variants: Iterable[str], quantizations: Mapping[str, Quantization], plots: Path) -> dict[str, Search]:
    """The searches of those `variants` of scheme mixed, by name, from the files that their stages wrote below `plots`.

    Raises InputError if such a file is missing.
    """
    chosen = {name: entry for name, entry in quantizations.items() if isinstance(entry, Mixed)}
    found = {}
    for variant in variants:
        if entry := chosen.get(variant.partition("-")[2]):
            path = plots / "convert" / variant / "steps.csv"
            if not path.exists():
                raise missing(path)
            found[variant] = Search(steps(read_csv(path)), entry.max_accuracy_drop)
    return found


def steps(rows: Iterable[Mapping[str, str]]) -> list[Step]:
    """The steps among the rows of plots/convert/P-Q/steps.csv, which also hold what none of them takes."""
    rows = [row for row in rows if row["step"]]
    accuracy = float(rows[0]["accuracy"])
    return [
        Step(
            int(row["step"]),
            row["layer"],
            row["type"],
            snr_db=float(row["snr_db"]) if row["snr_db"] else None,
            size_bytes=int(row["size_bytes"]) if row["size_bytes"] else None,
            latency_ms=float(row["latency_ms"]) if row["latency_ms"] else None,
            lost=accuracy - float(row["accuracy"]) if row["accuracy"] else None,
            chosen=row["chosen"] == "true",
        )
        for row in rows
    ]
