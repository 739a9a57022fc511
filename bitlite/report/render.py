"""report.html and the model card: what the templates beside this file say, with the numbers filled in."""

import base64
import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jinja2
import yaml
from ai_edge_litert.interpreter import Interpreter

from bitlite.report.layers import TYPES, Layers
from bitlite.report.variants import KIND, Comparison, milliseconds, percent, size, summary, three_digits, wilson
from bitlite.workflow.errors import InputError

# More classes than this make no readable matrix: the most confused pairs are listed instead.
MATRIX_CLASSES = 20
LISTED_PAIRS = 20


@dataclasses.dataclass(frozen=True)
class Run:
    """What went into the models.

    labels: class names in the order of the outputs. image_size: height and width in pixels.
    finetuned: the keys of metrics/finetune.json. pruned: the same of every pruned model, by name of the pruning.
    """

    dataset: str
    backbone: str
    seed: int
    image_size: tuple[int, int]
    labels: tuple[str, ...]
    finetuned: Mapping[str, float]
    pruned: Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a .tflite file. A quantized one means (value - zero_point) * scale; else scale is 0."""

    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the report's table. `best` picks the best of its values; None where none is better."""

    key: str
    heading: str
    text: Callable[[float], str]
    best: Callable[[list[float]], float] | None
    meaning: str


COLUMNS = (
    Column("accuracy", "Accuracy", percent, max, "test images classified rightly, with the 95 % interval"),
    Column("validation_accuracy", "Validation", percent, max, "the same of validation images; the choice goes by this"),
    Column("agreement", "Agreement", percent, max, "test images that the unconverted model puts in the same class"),
    Column("size_bytes", "Size", size, min, "bytes of the .tflite file"),
    Column("gzip_bytes", "Gzipped", size, min, "bytes of the file after gzip, as an app's download holds it"),
    Column("sparsity", "Zeros", percent, None, "share of zeros among the file's weights"),
    Column("latency_ms_p50", "Latency p50", milliseconds, min, "median time of one image"),
    Column("latency_ms_p90", "p90", milliseconds, min, "time that nine of ten images stay below"),
    Column("peak_memory_mb", "Memory", lambda mb: f"{three_digits(mb)} MB", min, "peak memory while the file ran"),
)


def report(
    comparison: Comparison, run: Run, layers: Layers, predictions: Sequence[Mapping[str, str]], picture: bytes
) -> str:
    """The report as one HTML page that needs nothing else.

    predictions: a row for each test image, class names under `actual` and `predicted`, of the selected variant.
    picture: the trade-off as PNG. Raises InputError as `confusion` does.
    """
    counts = confusion(predictions, run.labels)
    return _template("report.html.j2").render(
        comparison=comparison,
        run=run,
        layers=layers,
        types=TYPES,
        choice=choice(comparison),
        columns=COLUMNS,
        best={c.key: c.best([getattr(v, c.key) for v in comparison.variants]) for c in COLUMNS if c.best},
        images=len(predictions),
        interval={v.name: wilson(v.accuracy, len(predictions)) for v in comparison.variants},
        picture=base64.b64encode(picture).decode(),
        counts=counts if len(run.labels) <= MATRIX_CLASSES else None,
        pairs=confused_pairs(counts, run.labels)[:LISTED_PAIRS],
    )


def model_card(comparison: Comparison, run: Run, recipe: Mapping, model: Path, images: int) -> str:
    """The README of the release, as Markdown.

    recipe: the part of params.yaml that made the selected variant. model: its .tflite file. images: number of test
    images.
    """
    pixels, logits = tensors(model)
    return _template("model_card.md.j2").render(
        variant=comparison.selected,
        run=run,
        choice=choice(comparison),
        pixels=pixels,
        logits=logits,
        recipe=yaml.safe_dump(dict(recipe), sort_keys=False).strip(),
        images=images,
        interval=wilson(comparison.selected.accuracy, images),
    )


def choice(comparison: Comparison) -> str:
    """The selection and its reason as one sentence."""
    selected, compared = comparison.selected, summary(comparison)
    smaller = _times(compared["size_ratio"], "smaller", "larger")
    faster = _times(1 / compared["speedup"], "faster", "slower")
    fewer = _points(compared["accuracy_drop"])
    name = selected.name
    if selected == comparison.baseline:
        name, smaller, faster, fewer = f"{name}, the baseline,", "", "", ""
    return (
        f"{name} is the {KIND[comparison.objective]} among the {len(comparison.qualified)} of "
        f"{len(comparison.variants)} variants whose validation accuracy is at most "
        f"{100 * comparison.max_accuracy_drop:g} points below that of {comparison.baseline_name}: "
        f"{size(selected.size_bytes)}{smaller}, {milliseconds(selected.latency_ms_p50)} an image{faster}, "
        f"{percent(selected.accuracy)} of the test images right{fewer}."
    )


def _times(ratio: float, less: str, more: str) -> str:
    text = three_digits(max(ratio, 1 / ratio))
    return " (the same)" if text == "1.00" else f" ({text} times {less if ratio < 1 else more})"


def _points(drop: float) -> str:
    text = f"{abs(100 * drop):.1f}"
    return " (the same)" if text == "0.0" else f" ({text} points {'less' if drop > 0 else 'more'})"


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


def tensors(model: Path) -> tuple[Tensor, Tensor]:
    """The input and the output of a .tflite file of one input and one output."""
    interpreter = Interpreter(str(model))
    return tuple(
        Tensor(tuple(int(side) for side in d["shape"]), d["dtype"].__name__, *d["quantization"])
        for d in (*interpreter.get_input_details(), *interpreter.get_output_details())
    )


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "size": size, "milliseconds": milliseconds, "count": count}
    return environment.get_template(name)


def count(number: float) -> str:
    """A large number to three digits: 950, 478 k, 12.3 M, 4.62 G."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{three_digits(number / scale)} {unit}"
    return f"{number}"
