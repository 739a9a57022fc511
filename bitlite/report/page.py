"""report.html: the variants side by side, as one page."""

import base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import yaml

from bitlite.report import charts, noise
from bitlite.report.curves import Curve
from bitlite.report.judged import MEANINGS, Judged
from bitlite.report.layer_tables import TYPES, LayerTables
from bitlite.report.mistakes import Mistake
from bitlite.report.origin import Origin
from bitlite.report.places import FIT, PLACES, advice, caution
from bitlite.report.steps import Search
from bitlite.report.text import milliseconds, percent, series, size, template, three_digits
from bitlite.report.variants import Comparison, choice, compared, probability, standing, ties, unrest, wilson
from bitlite.workflow.errors import InputError

# More classes than this make no readable matrix: the most confused pairs are listed instead.
MATRIX_CLASSES = 20
LISTED_PAIRS = 20
LISTED_CLASSES = 20


@dataclass(frozen=True)
class Column:
    """A column of the report's table. `best` picks the best of its values; None where none is better."""

    key: str
    heading: str
    text: Callable[[float], str]
    best: Callable[[list[float]], float] | None
    meaning: str


COLUMNS = (
    Column(
        "accuracy", "Accuracy", percent, max, "test images that the file puts into their class, with the 95 % interval"
    ),
    Column("validation_accuracy", "Validation", percent, max, "the same of validation images; the choice goes by this"),
    Column("agreement", "Agreement", percent, max, "test images that the unconverted model puts in the same class"),
    Column("size_bytes", "Size", size, min, "bytes of the .tflite file"),
    Column("gzip_bytes", "Gzipped", size, min, "bytes of the file after gzip, as an app's download holds it"),
    Column("sparsity", "Zeros", percent, None, "share of zeros among the file's weights"),
    Column("latency_ms_p50", "Latency p50", milliseconds, min, "median time of one image, by LiteRT on the CPU named"),
    Column("latency_ms_p90", "p90", milliseconds, min, "time that nine of ten images stay below"),
    Column("peak_memory_mb", "Memory", lambda mb: f"{three_digits(mb)} MB", min, "peak memory while the file ran"),
)
MEANING_OF_NOISE = (
    "McNemar's exact two-sided test on the images that only one of the two gets right. p is how probable it is that "
    "chance parts two equally accurate variants as far as that, after Holm's correction over all variants: below "
    f"{noise.NOISE:g} a difference counts, and in 95 of 100 reports then no equal variant is called different."
)


def report(
    comparison: Comparison,
    origin: Origin,
    layers: LayerTables,
    predictions: Sequence[Mapping[str, str]],
    mistakes: Sequence[Mistake],
    curves: Mapping[str, Mapping[str, Curve]],
    params: Mapping,
    judged: Judged,
    picture: bytes,
    searches: Mapping[str, Search] = MappingProxyType({}),
    curve: bytes = b"",
    left_out: Sequence[str] = (),
) -> str:
    """The report as one HTML page that needs nothing else.

    predictions: a row for each test image, class names under `actual` and `predicted`, of the foremost variant.
    mistakes: some of them that are wrong. params: all parameters that may be published. picture: the trade-off as PNG,
    for browsers without scripts. searches, curve: of the variants of scheme mixed, and as PNG, if there are any.
    left_out: variants that are not finished. Raises InputError as `confusion` does.
    """
    counts = confusion(predictions, origin.labels)
    return template("report.html.j2").render(
        comparison=comparison,
        foremost=comparison.foremost,
        origin=origin,
        layers=layers,
        types=TYPES,
        choice=choice(comparison),
        ties=ties(comparison),
        probability=probability,
        noise=MEANING_OF_NOISE,
        standing=standing,
        compared=compared(comparison),
        columns=COLUMNS,
        best={c.key: c.best([getattr(v, c.key) for v in comparison.variants]) for c in COLUMNS if c.best},
        interval={v.name: wilson(v.accuracy, comparison.images) for v in comparison.variants},
        places=PLACES,
        fit=FIT,
        tried=series(sorted({str(v.images_tried) for v in comparison.variants}), "or"),
        advice=advice(comparison),
        caution=caution(comparison.foremost),
        unrest=unrest(comparison),
        left_out=left_out,
        tradeoff=charts.tradeoff(comparison),
        training=charts.training(curves) if curves else None,
        script=charts.script(),
        picture=base64.b64encode(picture).decode(),
        searches=searches,
        curve=base64.b64encode(curve).decode(),
        wrong=sum(row["actual"] != row["predicted"] for row in predictions),
        mistakes=mistakes,
        judged=judged,
        meanings=MEANINGS,
        listed_classes=LISTED_CLASSES,
        counts=counts if len(origin.labels) <= MATRIX_CLASSES else None,
        pairs=confused_pairs(counts, origin.labels)[:LISTED_PAIRS],
        params=yaml.safe_dump(dict(params), sort_keys=False, allow_unicode=True, width=100).strip(),
    )


def confusion(predictions: Sequence[Mapping[str, str]], labels: Sequence[str]) -> list[list[int]]:
    """Numbers of images: a row for each actual class, a column for each predicted one, in the order of `labels`.

    Raises InputError if a prediction names a class that is not among `labels`.
    """
    pairs = Counter((row["actual"], row["predicted"]) for row in predictions)
    unknown = sorted({name for pair in pairs for name in pair} - set(labels))
    if unknown:
        raise InputError(f"predictions.csv names the class {unknown[0]!r}; the model's classes: {', '.join(labels)}")
    return [[pairs[actual, predicted] for predicted in labels] for actual in labels]


def confused_pairs(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[tuple[str, str, int, float]]:
    """Actual class, predicted class, number of images and its share of the actual class's, the most confused first."""
    pairs = [
        (actual, predicted, count, count / sum(row))
        for actual, row in zip(labels, counts, strict=True)
        for predicted, count in zip(labels, row, strict=True)
        if count and actual != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3], pair[0], pair[1]))
