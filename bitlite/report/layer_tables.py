"""Numbers of single layers for the report: their run time, their error, and the weights that pruning kept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitlite.bit.weights import Bit
from bitlite.workflow.files import COUNT, NUMBER, SHARE, or_nothing, read_csv, text

# In the order of the report.
TYPES = {"conv": "Convolutions", "norm": "Norms", "other": "Rest"}
DELEGATE = "xnnpack"
# Of the files layers.csv that the stages benchmark, convert and prune write.
TIMES = {"layer": text, "type": TYPES.__contains__, "delegate": text, "time_share": SHARE}
ERRORS = {"layer": text, "snr_db": or_nothing(NUMBER)}
PRUNED = {"layer": text, "parameters": COUNT, "sparsity": SHARE}
# A signal this many decibels above its error shows no shade; the rule of thumb is 6 dB a bit, so 8 bits.
FAITHFUL_DB = 48


@dataclass(frozen=True)
class Time:
    """The run time of one variant, as shares of the whole, 0..1.

    layers: in running order. types: sums over the layers of each of TYPES.
    left: the operators that XNNPACK leaves to LiteRT and why, with the number of layers where it does.
    """

    layers: Mapping[str, float]
    types: Mapping[str, float]
    left: Mapping[str, int]


@dataclass(frozen=True)
class Table:
    """Numbers by layer, a column each. `shades`, 0..1, are theirs in the same places; None where there is no number."""

    layers: Sequence[str]
    columns: Mapping[str, Sequence[float | None]]
    shades: Mapping[str, Sequence[float | None]]

    def __bool__(self) -> bool:
        return bool(self.layers and self.columns)


@dataclass(frozen=True)
class LayerTables:
    """All that the report says of single layers.

    times: by variant. shares: of the run time, 0..1. errors: against float32, as signal to noise in dB.
    kept: shares, 0..1, of the fine-tuned model's weights that pruning kept.
    """

    times: Mapping[str, Time]
    shares: Table
    errors: Table
    kept: Table


def read(variants: Iterable[str], prunings: Iterable[str], finetuned: Bit, plots: Path) -> LayerTables:
    """The layers of `variants` and `prunings`, from the files that their stages wrote below `plots`.

    Raises InputError if such a file is missing or damaged.
    """
    weights = {convolution.path: convolution.kernel.size for convolution in finetuned.convolutions}
    times = {name: time(read_csv(plots / "benchmark" / name / "layers.csv", TIMES)) for name in variants}
    errors = {name: _errors(plots / "convert" / name / "layers.csv") for name in times}
    kept = {name: kept_share(read_csv(plots / "prune" / name / "layers.csv", PRUNED), weights) for name in prunings}
    return LayerTables(
        times,
        shares=shares_table({name: each.layers for name, each in times.items()}),
        errors=errors_table({name: column for name, column in errors.items() if column}),
        kept=kept_table({name: column for name, column in kept.items() if min(column.values()) < 1}),
    )


def time(rows: Iterable[Mapping[str, str]]) -> Time:
    """The run time from the rows of plots/benchmark/P-Q/layers.csv."""
    layers, types = {}, dict.fromkeys(TYPES, 0.0)
    left: dict[str, int] = {}
    for row in rows:
        layers[row["layer"]] = float(row["time_share"])
        types[row["type"]] += float(row["time_share"])
        for refused in row["delegate"].split("; ") if row["delegate"] != DELEGATE else ():
            left[refused] = left.get(refused, 0) + 1
    return Time(layers, types, left)


def kept_share(rows: Iterable[Mapping[str, str]], finetuned: Mapping[str, int]) -> dict[str, float]:
    """The share of its weights that each layer keeps: they are there, and not zero.

    rows: of plots/prune/P/layers.csv. finetuned: number of weights of each layer before pruning.
    """
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
    """Shaded from all kept to none."""
    return _table(columns, lambda share: 1 - share)


def _table(columns: Mapping[str, Mapping[str, float]], shade) -> Table:
    # Pruning may have removed layers; the column with most of them knows their order best.
    fullest_first = sorted(columns.values(), key=lambda column: (-len(column), -sum(map(bool, column.values()))))
    layers = list(dict.fromkeys(layer for column in fullest_first for layer in column))
    values = {name: [column.get(layer) for layer in layers] for name, column in columns.items()}
    shades = {name: [None if v is None else shade(v) for v in column] for name, column in values.items()}
    return Table(layers, values, shades)


def _errors(path: Path) -> dict[str, float]:
    """Decibels by layer, without those layers that are just as in float32."""
    return {row["layer"]: float(row["snr_db"]) for row in read_csv(path, ERRORS) if row["snr_db"]}
