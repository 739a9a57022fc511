"""What the report says of single layers: their run time, their error, and what pruning kept of them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bitlite.workflow.errors import InputError
from bitlite.workflow.files import read_csv

# In the order of the report.
TYPES = {"conv": "Convolutions", "norm": "GroupNorm", "other": "Rest"}
DELEGATE = "xnnpack"
# A signal this many decibels above its error shows no shade; the rule of thumb is 6 dB a bit, so 8 bits.
FAITHFUL_DB = 48


@dataclasses.dataclass(frozen=True)
class Time:
    """The run time of one variant: each layer's share, 0..1, in running order, and that of each of TYPES.

    left: what XNNPACK leaves to LiteRT and why, with the number of layers where it does.
    """

    layers: Mapping[str, float]
    types: Mapping[str, float]
    left: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Table:
    """Numbers by layer, a column each. `shades`, 0..1, are theirs in the same places; None where there is no number."""

    layers: Sequence[str]
    columns: Mapping[str, Sequence[float | None]]
    shades: Mapping[str, Sequence[float | None]]

    def __bool__(self) -> bool:
        return bool(self.layers and self.columns)


@dataclasses.dataclass(frozen=True)
class Layers:
    """All that the report says of single layers.

    times: by variant. shares, errors, kept: tables of time shares (0..1), of errors against float32 (signal to noise in
    dB) and of the weights that pruning kept (0..1 of the fine-tuned model's).
    """

    times: Mapping[str, Time]
    shares: Table
    errors: Table
    kept: Table


def read(variants: Iterable[str], prunings: Iterable[str], finetuned: Mapping[str, int], plots: Path) -> Layers:
    """The layers of `variants` and `prunings` from what their stages wrote to `plots`.

    finetuned: number of weights in the kernel of each layer of the fine-tuned model. Raises InputError if a file is
    missing.
    """
    times = {name: time(_rows(plots / "benchmark" / name / "layers.csv")) for name in variants}
    errors = {name: _errors(plots / "convert" / name / "layers.csv") for name in times}
    kept = {name: kept_share(_rows(plots / "prune" / name / "layers.csv"), finetuned) for name in prunings}
    return Layers(
        times,
        shares=shares_table({name: each.layers for name, each in times.items()}),
        errors=errors_table({name: column for name, column in errors.items() if column}),
        kept=kept_table({name: column for name, column in kept.items() if min(column.values()) < 1}),
    )


def time(rows: Iterable[Mapping[str, str]]) -> Time:
    """The run time from the rows of plots/benchmark/P-Q/layers.csv."""
    layers, types, left = {}, dict.fromkeys(TYPES, 0.0), {}
    for row in rows:
        layers[row["layer"]] = float(row["time_share"])
        types[row["type"]] += float(row["time_share"])
        for refused in row["delegate"].split("; ") if row["delegate"] != DELEGATE else ():
            left[refused] = left.get(refused, 0) + 1
    return Time(layers, types, left)


def kept_share(rows: Iterable[Mapping[str, str]], finetuned: Mapping[str, int]) -> dict[str, float]:
    """The share of `finetuned` weights that are left and not zero, from the rows of plots/prune/P/layers.csv."""
    left = {row["layer"]: int(row["parameters"]) * (1 - float(row["sparsity"])) for row in rows}
    return {layer: left.get(layer, 0) / finetuned[layer] for layer in dict.fromkeys((*left, *finetuned))}


def shares_table(columns: Mapping[str, Mapping[str, float]]) -> Table:
    """Shaded from nothing to the largest share of all."""
    largest = max((share for column in columns.values() for share in column.values()), default=1)
    return _table(columns, lambda share: share / largest)


def errors_table(columns: Mapping[str, Mapping[str, float]]) -> Table:
    """Shaded from FAITHFUL_DB to an error as large as the signal."""
    return _table(columns, lambda decibels: min(1.0, max(0.0, 1 - decibels / FAITHFUL_DB)))


def kept_table(columns: Mapping[str, Mapping[str, float]]) -> Table:
    """Shaded by what is gone."""
    return _table(columns, lambda share: 1 - share)


def _table(columns: Mapping[str, Mapping[str, float]], shade) -> Table:
    # Pruning may have removed layers; the column with most of them knows their order best.
    fullest_first = sorted(columns.values(), key=lambda column: (-len(column), -sum(map(bool, column.values()))))
    layers = list(dict.fromkeys(layer for column in fullest_first for layer in column))
    values = {name: [column.get(layer) for layer in layers] for name, column in columns.items()}
    shades = {name: [None if v is None else shade(v) for v in column] for name, column in values.items()}
    return Table(layers, values, shades)


def _errors(path: Path) -> dict[str, float]:
    """Decibels by layer; none of a variant that is not compared with float32."""
    return {row["layer"]: float(row["snr_db"]) for row in read_csv(path) if row["snr_db"]} if path.exists() else {}


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        raise InputError(f"{path} is missing: run `dvc repro`")
    return read_csv(path)
