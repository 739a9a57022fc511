"""The curves of all trainings: fine-tuning, and the recovery of every pruning."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from bitlite.workflow.files import COUNT, NUMBER, read_csv

FINETUNING = "fine-tuning"
# In the order of the report.
MEASURES = ("loss", "accuracy", "validation_accuracy")
# Points of a curve at most: more make a page slow, and a curve no clearer.
POINTS = 200

Curve = list[tuple[int, float]]


def read(prunings: Iterable[str], plots: Path) -> dict[str, Mapping[str, Curve]]:
    """By name of the training, the curves that DVCLive wrote of it: (step, value) by measure.

    What did not train has none. A curve of more than POINTS points has the means of equally many neighbours.
    """
    folders = {FINETUNING: plots / "finetune", **{name: plots / "prune" / name for name in prunings}}
    found = {name: _curves(folder / "plots" / "metrics") for name, folder in folders.items()}
    return {name: curves for name, curves in found.items() if curves}


def thinned(curve: Curve) -> Curve:
    """At most POINTS points: the last step, and the mean, of each of as many runs of neighbours."""
    length = -(-len(curve) // POINTS) or 1
    runs = (curve[start : start + length] for start in range(0, len(curve), length))
    return [(run[-1][0], fmean(value for _, value in run)) for run in runs]


def _curves(folder: Path) -> dict[str, Curve]:
    paths = {measure: folder / f"{measure}.tsv" for measure in MEASURES}
    return {measure: thinned(_curve(path, measure)) for measure, path in paths.items() if path.exists()}


def _curve(path: Path, measure: str) -> Curve:
    """What a training that went astray made no number of is left out."""
    rows = read_csv(path, {"step": COUNT, measure: _is_float}, delimiter="\t")
    points = [(int(row["step"]), float(row[measure])) for row in rows]
    return [(step, value) for step, value in points if math.isfinite(value)]


def _is_float(text: str) -> bool:
    return NUMBER(text) or text.lower() in ("nan", "inf", "-inf")
