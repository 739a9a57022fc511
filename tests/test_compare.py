import base64
import dataclasses
import io
import json
import random
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from comparisons import comparison, variant
from markdown_it import MarkdownIt
from picture_files import png_file, tiff_file
from PIL import Image
from preparing import encoded, png
from preparing import noise as noise_of
from ruamel.yaml import YAML
from scipy.stats import binomtest

from bitlite.bit.names import HEAD, ROOT
from bitlite.bit.shapes import Shape
from bitlite.bit.weights import untrained
from bitlite.images import dataset
from bitlite.litert import runtime
from bitlite.report import (
    charts,
    curves,
    judged,
    layer_tables,
    mistakes,
    noise,
    origin,
    page,
    picture,
    release,
    steps,
    text,
    variants,
)
from bitlite.report.origin import Origin
from bitlite.report.page import confusion
from bitlite.report.places import PLACES, advice
from bitlite.report.variants import Comparison, Variant, choice, remedy, summary, ties, tradeoff_rows, wilson
from bitlite.tflite import calibration, quantizer
from bitlite.tflite.graph import to_file
from bitlite.tflite.lowering import lower, probabilities
from bitlite.workflow import metrics
from bitlite.workflow.errors import InputError, printable
from bitlite.workflow.files import read_csv, write_csv
from bitlite.workflow.metrics import ModelScores, PrunedScores
from bitlite.workflow.params import Params, load
from stages import compare

LABELS = ("daisy", "dandelion", "rose")
IMAGE_SIZE = (16, 24)


DENSE = variant("dense-float32")
FINETUNED = untrained(
    "bit-test", Shape(filters=4, units=(1,), groups=2, root=3, pool=False, image_size=IMAGE_SIZE), seed=0
).with_head(LABELS, IMAGE_SIZE)


# Choice


def test_choice_goes_by_validation_not_test():
    flattered = variant("dense-int8", accuracy=0.99, validation_accuracy=0.87, size_bytes=300)
    honest = variant("dense-float16", accuracy=0.80, validation_accuracy=0.89, size_bytes=500)
    assert comparison(DENSE, flattered, honest).selected == honest


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("size", "dense-int8"), ("latency", "dense-dynamic"), ("accuracy", "dense-float16")],
)
def test_objective(objective, expected):
    variants = (
        DENSE,
        variant("dense-float16", validation_accuracy=0.91, accuracy=0.1),
        variant("dense-dynamic", latency_ms_p50=1.0, size_bytes=999),
        variant("dense-int8", size_bytes=300, latency_ms_p50=1.5),
    )
    assert comparison(*variants, objective=objective).selected.name == expected


def test_bound_is_inclusive_despite_rounding():
    # 0.3 - 0.1 is 0.19999999999999998 and 0.8 - 0.1 is 0.7000000000000001 in binary.
    for baseline, bound in ((0.3, 0.2), (0.8, 0.7)):
        variants = (
            variant("dense-float32", validation_accuracy=baseline),
            variant("dense-int8", validation_accuracy=bound, size_bytes=1),
        )
        assert comparison(*variants, max_accuracy_drop=0.1).selected.name == "dense-int8"


def test_just_below_the_bound_does_not_qualify():
    # One image of a million.
    below = variant("dense-int8", validation_accuracy=0.88 - 1e-6, size_bytes=1)
    assert comparison(DENSE, below).selected == DENSE


def test_ties_go_to_the_smaller_then_the_first_by_name():
    same = [variant(f"dense-{name}", size_bytes=500) for name in ("b", "a", "c")]
    assert comparison(DENSE, *same).selected.name == "dense-a"
    fast = [variant("dense-a", latency_ms_p50=1, size_bytes=600), variant("dense-b", latency_ms_p50=1, size_bytes=500)]
    assert comparison(DENSE, *fast, objective="latency").selected.name == "dense-b"


def test_baseline_is_left_when_nothing_else_qualifies():
    chosen = comparison(DENSE, variant("dense-int8", validation_accuracy=0.1, size_bytes=1), max_accuracy_drop=0.0)
    assert chosen.selected == DENSE
    assert summary(chosen) == metrics.Summary(
        selected="dense-float32", accuracy=0.9, accuracy_drop=0.0, size_bytes=1000, size_ratio=1.0, latency_ms_p50=2.0,
        speedup=1.0,
    )  # fmt: skip
    assert choice(chosen).startswith("dense-float32, the baseline, is the smallest among the 1 of 2 variants")


def crowd_of(seed: int) -> list[Variant]:
    """Twelve variants of random numbers, coarse enough for equals, the baseline among them."""
    drawn = random.Random(seed)
    names = ["dense-float32", *(f"pruned-q{number}" for number in range(11))]
    return [
        variant(
            name, accuracy=drawn.random(), validation_accuracy=drawn.randrange(80, 100) / 100,
            size_bytes=drawn.randrange(1, 9) * 100, latency_ms_p50=drawn.uniform(0.05, 4),
            peak_memory_mb=drawn.uniform(5, 150),
        )
        for name in names
    ]  # fmt: skip


def bounds_of(seed: int) -> dict:
    """Some of the constraints, at random."""
    drawn = random.Random(1000 + seed)
    drawn_all = {
        "max_accuracy_drop": drawn.randrange(10) / 100, "min_accuracy": drawn.randrange(80, 100) / 100,
        "max_size_bytes": drawn.randrange(1, 9) * 100, "max_latency_ms": drawn.uniform(0.5, 4),
        "max_memory_mb": drawn.uniform(50, 150),
    }  # fmt: skip
    return {key: value for key, value in drawn_all.items() if drawn.random() < 0.6}


@pytest.mark.parametrize("seed", range(60))
def test_constraints_against_brute_force(seed):
    made, bounds = crowd_of(seed), bounds_of(seed)
    chosen = comparison(*made, **bounds)
    hundredths = {v.name: round(100 * v.validation_accuracy) for v in made}
    fitting = [
        v
        for v in made
        if hundredths[v.name] >= hundredths["dense-float32"] - round(100 * bounds.get("max_accuracy_drop", 0.02))
        and hundredths[v.name] >= round(100 * bounds.get("min_accuracy", 0))
        and v.size_bytes <= bounds.get("max_size_bytes", 9999)
        and v.latency_ms_p50 <= bounds.get("max_latency_ms", 9999)
        and v.peak_memory_mb <= bounds.get("max_memory_mb", 9999)
    ]
    assert list(chosen.qualified) == fitting
    assert chosen.selected == min(fitting, key=lambda v: (v.size_bytes, v.name), default=None)


@pytest.mark.parametrize("seed", range(60))
def test_the_remedy_lets_in_the_nearest_and_no_tighter_one_does(seed):
    made, bounds = crowd_of(seed), bounds_of(seed) | {"max_size_bytes": 50}
    refused = comparison(*made, **bounds)
    nearest = refused.foremost
    assert refused.selected is None and nearest == refused.nearest_first[0]
    found = dict(re.findall(r"(m\w+): ([\d.]*\d)", remedy(refused)))
    relaxed = {key: int(text) if key == "max_size_bytes" else float(text) for key, text in found.items()}
    assert nearest in comparison(*made, **bounds | relaxed).qualified
    for key, value in relaxed.items():
        tighter = value * (1.002 if key == "min_accuracy" else 0.998)
        if key != "max_size_bytes":
            assert nearest not in comparison(*made, **bounds | relaxed | {key: tighter}).qualified


def test_nearest_first():
    made = (
        variant("dense-float32", size_bytes=1100, latency_ms_p50=1.0),
        variant("dense-a", size_bytes=1000, latency_ms_p50=1.5),  # half as slow again
        variant("dense-b", size_bytes=1050, latency_ms_p50=1.0),  # a twentieth too large
        variant("dense-c", size_bytes=1000, latency_ms_p50=1.0, validation_accuracy=0.85),  # three points short
    )
    refused = comparison(*made, max_size_bytes=1000, max_latency_ms=1.0)
    assert [v.name for v in refused.nearest_first] == ["dense-c", "dense-b", "dense-float32", "dense-a"]
    assert choice(refused) == (
        "None of the 4 variants meets all constraints: that its validation accuracy is at most 2 points below that of "
        "dense-float32, size is at most 1.00 kB and median latency is at most 1.00 ms. Of them the nearest, dense-c, "
        "would with max_accuracy_drop: 0.05 under compare in params.yaml."
    )


def test_the_baseline_need_not_meet_the_constraints():
    small = variant("dense-int8", size_bytes=250)
    chosen = comparison(DENSE, small, max_size_bytes=300)
    assert (chosen.baseline, chosen.selected, chosen.qualified) == (DENSE, small, (small,))
    assert (
        "the 1 of 2 variants whose validation accuracy is at most 2 points below that of dense-float32 and size is "
        in (choice(chosen))
    )


def test_summary_is_of_test_accuracy_against_the_baseline():
    chosen = comparison(DENSE, variant("dense-int8", accuracy=0.875, size_bytes=250, latency_ms_p50=0.5))
    assert summary(chosen) == metrics.Summary(
        selected="dense-int8", accuracy=0.875, accuracy_drop=pytest.approx(0.025), size_bytes=250, size_ratio=0.25,
        latency_ms_p50=0.5, speedup=4.0,
    )  # fmt: skip
    assert choice(chosen) == (
        "dense-int8 is the smallest among the 2 of 2 variants whose validation accuracy is at most 2 points below that "
        "of dense-float32: 250 B (4.00 times smaller), 0.500 ms an image (4.00 times faster), 87.5 % of the test "
        "images right (2.5 points less)."
    )


def test_pareto():
    variants = (
        DENSE,
        variant("dense-slow", latency_ms_p50=3.0),
        variant("dense-small", size_bytes=10, accuracy=0.5, latency_ms_p50=9.0),
        variant("dense-twin"),
        variant("dense-worse", accuracy=0.4, size_bytes=11, latency_ms_p50=9.5),
    )
    rows = tradeoff_rows(comparison(*variants))
    # Equals do not dominate each other.
    assert [row["variant"] for row in rows if row["pareto"] == "true"] == ["dense-float32", "dense-small", "dense-twin"]
    assert [row["variant"] for row in rows if row["selected"] == "true"] == ["dense-small"]


def test_rows():
    (row,) = tradeoff_rows(comparison(DENSE))
    assert list(row.items()) == [
        ("variant", "dense-float32"), ("pruning", "dense"), ("quantization", "float32"), ("accuracy", 0.9),
        ("validation_accuracy", 0.9), ("agreement", 0.95), ("size_bytes", 1000), ("gzip_bytes", 900), ("sparsity", 0.0),
        ("latency_ms_p50", 2.0), ("latency_ms_p90", 2.5), ("peak_memory_mb", 40.0), ("p_baseline", ""),
        ("p_selected", ""), ("pareto", "true"), ("selected", "true"),
    ]  # fmt: skip


# Noise


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (3, 13), (0, 6), (40, 77), (9, 1)])
def test_mcnemar_against_scipys_binomial_test(gained, lost):
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1
    assert noise.mcnemar(gained, lost) == pytest.approx(expected) == pytest.approx(noise.mcnemar(lost, gained))


def test_holm():
    # By hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, and no less than that for the last.
    assert noise.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert noise.holm([0.9, 0.8]) == [1, 1]
    assert noise.holm([]) == []


def hits(*numbers: int, images: int = 100) -> np.ndarray:
    """Whether each image is classified rightly: all but those of these numbers."""
    return ~np.isin(np.arange(images), numbers)


def test_ties_go_by_images_not_by_accuracies():
    # Both lose eight images, but one of them gains eight others.
    right = {
        "dense-float32": hits(*range(8)), "dense-float16": hits(*range(8, 16)), "dense-int8": hits(*range(16)),
        "dense-dynamic": hits(),
    }  # fmt: skip
    made = [DENSE, *(variant(name, size_bytes=2000) for name in ("dense-float16", "dense-int8", "dense-dynamic"))]
    chosen = comparison(*made, right=right)
    found = {name: (each.gained, each.lost, each.tie) for name, each in chosen.against_foremost.items()}
    assert chosen.selected == DENSE
    # 8 : 0 alone has p = 1/128, three times which is below 0.05; 8 : 8 has 1.
    assert found == {"dense-float16": (8, 8, True), "dense-int8": (0, 8, False), "dense-dynamic": (8, 0, False)}
    assert chosen.against_foremost["dense-int8"].p == pytest.approx(3 / 128)
    assert ties(chosen) == (
        "For what 100 test images can tell, dense-float32 is as accurate as dense-float16; more accurate than "
        "dense-int8; less accurate than dense-dynamic."
    )
    rows = {row["variant"]: row for row in tradeoff_rows(chosen)}
    assert rows["dense-int8"]["p_selected"] == rows["dense-int8"]["p_baseline"] == pytest.approx(3 / 128)
    marks = {line.split()[0]: line.split()[-2:] for line in variants.table(chosen).splitlines()[2:]}
    assert marks == {
        "dense-float16": ["tie", "1.00"], "dense-int8": ["differs", "0.02"], "dense-dynamic": ["differs", "0.02"]
    }  # fmt: skip


def test_among_many_variants_one_of_twenty_is_no_difference():
    others = {f"dense-q{number}": hits(number) for number in range(20)}
    others["dense-q0"] = hits(*range(6))
    made = [DENSE, *(variant(name, size_bytes=2000) for name in others)]
    chosen = comparison(*made, right={"dense-float32": hits(), **others})
    # 0 : 6 by itself is p = 1/32.
    assert chosen.against_foremost["dense-q0"].tie
    assert "dense-float32 is as accurate as all others: which of them is ahead is noise" in ties(chosen)


def test_predictions_of_other_images_are_refused(tmp_path):
    for name, rows in (("a", many_predictions()), ("b", many_predictions()[::-1])):
        write_csv(tmp_path / f"evaluate/{name}/predictions.csv", ["actual", "predicted"], rows)
    assert noise.read(["a"], tmp_path)["a"].sum() == 13
    with pytest.raises(ValueError, match=r"evaluate/b/predictions\.csv is of other test images than a's"):
        noise.read(["a", "b"], tmp_path)
    with pytest.raises(ValueError, match=r"evaluate/c/predictions\.csv is missing: run `dvc repro`$"):
        noise.read(["a", "c"], tmp_path)


# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I,
# method 3.
@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson(hits, count, low, high):
    assert wilson(hits / count, count) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1 - hits / count, count) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_numbers_as_text():
    assert [text.size(n) for n in (7, 999, 1000, 151_200, 1_912_000, 94_312_345)] == [
        "7 B", "999 B", "1.00 kB", "151 kB", "1.91 MB", "94.3 MB",
    ]  # fmt: skip
    assert [text.three_digits(x) for x in (0, 0.01234, 0.5, 9.999, 12.34, 999.6, 12345)] == [
        "0", "0.0123", "0.500", "10.00", "12.3", "1000", "12300",
    ]  # fmt: skip
    assert [text.count(n) for n in (950, 478_123, 12_345_678, 4_620_000_000)] == ["950", "478 k", "12.3 M", "4.62 G"]


# Layers


def test_time_adds_up_by_type_and_names_what_is_left_to_litert():
    time = layer_tables.time(TIMES)
    assert time.types == pytest.approx({"conv": 0.6, "norm": 0.35, "other": 0.05})
    assert time.left == {"QUANTIZE from uint8 to int8": 1, "ADD of int8": 2, "RSQRT of int8": 1}
    assert list(time.layers) == [row["layer"] for row in TIMES]


def test_kept_counts_weights_that_are_neither_removed_nor_zero():
    rows = [
        {"layer": "b", "parameters": "50", "sparsity": "0.0"},
        {"layer": "a", "parameters": "100", "sparsity": "0.75"},
    ]
    kept = layer_tables.kept_share(rows, {"a": 100, "b": 200, "removed": 10})
    assert list(kept.items()) == [("b", 0.25), ("a", 0.25), ("removed", 0.0)]


def test_tables_keep_the_order_of_the_variant_with_most_layers():
    table = layer_tables.shares_table({"small": {"c": 0.5, "a": 0.5}, "large": {"a": 0.2, "b": 0.4, "c": 0.4}})
    assert table.layers == ["a", "b", "c"]
    assert table.columns == {"small": [0.5, None, 0.5], "large": [0.2, 0.4, 0.4]}
    assert table.shades == {"small": [1, None, 1], "large": [0.4, 0.8, 0.8]}


def test_errors_are_the_darker_the_larger():
    (shades,) = layer_tables.errors_table({"dense-int8": {"a": 60.0, "b": 36.0, "c": 12.0, "d": -5.0}}).shades.values()
    assert shades == [0, 0.25, 0.75, 1]


def test_reading_joins_what_three_stages_wrote(tmp_path):
    write_layers(tmp_path, ["dense-float32", "dense-int8"], ["dense", "channels"])
    root, *others = kernel_rows()
    half = {**root, "parameters": root["parameters"] // 2}
    write_csv(tmp_path / "prune/channels/layers.csv", root, [half, *others])
    for name, lost in (("int8", 30.5), ("float32", "")):
        row = {"layer": ROOT, "type": name, "size_bytes": 9, "snr_db": lost}
        write_csv(tmp_path / f"convert/dense-{name}/layers.csv", row, [row])
    found = layer_tables.read(["dense-float32", "dense-int8"], ["dense", "channels"], FINETUNED, tmp_path)
    assert list(found.times) == list(found.shares.columns) == ["dense-float32", "dense-int8"]
    assert found.errors.columns == {"dense-int8": [30.5]}
    # A pruning that takes nothing has no column.
    assert found.kept.columns == {"channels": [0.5, *(1.0 for _ in others)]}
    (tmp_path / "benchmark/dense-int8/layers.csv").unlink()
    with pytest.raises(ValueError, match=r"benchmark/dense-int8/layers\.csv is missing: run `dvc repro`$"):
        layer_tables.read(["dense-float32", "dense-int8"], ["dense"], FINETUNED, tmp_path)


def kernel_rows() -> list[dict]:
    """Rows of plots/prune/P/layers.csv of a pruning that takes nothing from FINETUNED."""
    return [
        {"layer": convolution.path, "parameters": convolution.kernel.size, "sparsity": 0.0}
        for convolution in FINETUNED.convolutions
    ]


def write_layers(plots: Path, names, prunings) -> None:
    """The files of the benchmark, convert and prune stages, of variants of these names."""
    for name in names:
        write_csv(plots / "benchmark" / name / "layers.csv", TIMES[0], TIMES)
        errors = [{"layer": ROOT, "type": "int8", "size_bytes": 1000, "snr_db": 40.0}]
        write_csv(plots / "convert" / name / "layers.csv", errors[0], errors)
    for name in prunings:
        write_csv(plots / "prune" / name / "layers.csv", kernel_rows()[0], kernel_rows())


# Curves


def write_curve(folder: Path, measure: str, values) -> None:
    path = folder / "plots/metrics" / f"{measure}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{step}\t{value}\n" for step, value in [("step", measure), *values]))


def test_curves_are_those_that_trainings_wrote(tmp_path):
    write_curve(tmp_path / "finetune", "loss", [(8, 2.5), (16, "nan"), (24, 1.5)])
    write_curve(tmp_path / "prune/channels", "validation_accuracy", [(5, 0.5)])
    (tmp_path / "prune/dense").mkdir()
    assert curves.read(["dense", "channels"], tmp_path) == {
        "fine-tuning": {"loss": [(8, 2.5), (24, 1.5)]},
        "channels": {"validation_accuracy": [(5, 0.5)]},
    }


def test_a_long_curve_keeps_its_last_step_and_its_mean():
    thinned = curves.thinned([(step, float(step % 3)) for step in range(1, 901)])
    assert len(thinned) <= curves.POINTS and thinned[-1][0] == 900
    assert np.mean([value for _, value in thinned]) == pytest.approx(1)
    assert curves.thinned([(1, 2.0)]) == [(1, 2.0)] and curves.thinned([]) == []


# Mistakes


def test_mistakes_are_the_wrong_images_the_surest_first():
    pixels = [Image.new("RGB", (4 + number, 300 if number == 2 else 4), (number, 0, 0)) for number in range(5)]
    examples = [(encoded(image, "PNG"), 0) for image in pixels]
    seen = [
        {"actual": actual, "predicted": predicted, "confidence": confidence}
        for actual, predicted, confidence in (
            ("rose", "rose", "0.99"), ("rose", "daisy", "0.5"), ("daisy", "rose", "0.9"), ("rose", "rose", "0.4"),
            ("daisy", "dandelion", "0.7"),
        )
    ]  # fmt: skip
    found = mistakes.worst(seen, iter(examples))
    assert [(each.actual, each.predicted, each.confidence) for each in found] == [
        ("daisy", "rose", 0.9), ("daisy", "dandelion", 0.7), ("rose", "daisy", 0.5),
    ]  # fmt: skip
    shown = [Image.open(io.BytesIO(base64.b64decode(each.picture.partition("base64,")[2]))) for each in found]
    assert [image.size for image in shown] == [each.size for each in found]
    assert (shown[0].format, max(shown[0].size)) == ("JPEG", mistakes.SIDE)
    assert np.array_equal(shown[1], pixels[4])
    # Without confidences, in the order of the images.
    unsure = mistakes.worst([{key: row[key] for key in ("actual", "predicted")} for row in seen], iter(examples))
    assert [each.confidence for each in unsure] == [None] * 3 and unsure[0].predicted == "daisy"


def test_so_many_mistakes_are_shown():
    wrong = [{"actual": "rose", "predicted": "daisy"}] * 30
    assert len(mistakes.worst(wrong, ((encoded(Image.new("L", (4, 4)), "PNG"), 0) for _ in wrong))) == mistakes.SHOWN


# Revision


def test_revision_tells_of_changes_beside_those_of_stages(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=A", "-c", "user.email=a@b.example")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert origin.revision(tmp_path) == "not in Git"
    git("init")
    assert origin.revision(tmp_path) == "not in Git"  # no commit yet
    for name in ("params.yaml", "dvc.lock", "a b.py", "metrics/a.json", "plots/a.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
    git("add", ".")
    git("commit", "--message", "one")
    for name in ("dvc.lock", "metrics/a.json", "plots/a.csv"):
        (tmp_path / name).write_text("after")
    clean = origin.revision(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    for name in ("params.yaml", "a b.py"):
        (tmp_path / name).write_text("after")
    assert origin.revision(tmp_path) == f"{clean}, and uncommitted changes in a b.py, params.yaml"


# Reading


RECORDS = {"evaluate": metrics.Evaluation, "benchmark": metrics.Timing, "where": metrics.Places}


def write_metrics(directory: Path, *variants: Variant) -> None:
    for v in variants:
        for stage, kind in RECORDS.items():
            record = kind(**{field.name: getattr(v, field.name) for field in dataclasses.fields(kind)})
            metrics.write(directory / stage / f"{v.name}.json", record)


def test_metrics_of_removed_entries_are_named(tmp_path):
    write_metrics(tmp_path, DENSE, variant("gone-int8"))
    left = [tmp_path / stage / "gone-int8.json" for stage in ("benchmark", "evaluate", "where")]
    assert variants.left_over(["dense-float32"], tmp_path) == left
    assert variants.left_over(["dense-float32", "gone-int8"], tmp_path) == []


def test_read_returns_the_variants_asked_for(tmp_path):
    int8, removed = variant("dense-int8", cpu="Other CPU", gpu_whole=True), variant("gone-int8", size_bytes=1)
    write_metrics(tmp_path, DENSE, int8, removed)
    assert variants.read(["dense-int8", "dense-float32"], tmp_path) == (int8, DENSE)


# Picture


def crowd() -> Comparison:
    """Twelve variants, some all but on top of each other, one broken down."""
    random.seed(3)
    variants = [
        variant(
            f"{pruning}-{quantization}",
            accuracy=0.31 if (pruning, quantization) == ("magnitude", "int8") else accuracy - loss,
            validation_accuracy=accuracy - 3 * loss,
            size_bytes=round(bytes_ * share),
            latency_ms_p50=time * slower,
        )
        for pruning, accuracy, bytes_, time in (
            ("dense", 0.981, 1_912_000, 2.31), ("magnitude", 0.977, 1_912_000, 2.33),
            ("channels", 0.969, 560_000, 0.91),
        )
        for quantization, loss, share, slower in (
            ("float32", 0, 1, 1), ("float16", 0.0002, 0.503, 1.02), ("dynamic", 0.001, 0.27, 1.25),
            ("int8", 0.0042, 0.283, 0.52),
        )
    ]  # fmt: skip
    return comparison(*variants)


def test_front_against_brute_force():
    random.seed(0)
    for _ in range(50):
        points = [(random.randrange(6), random.randrange(6)) for _ in range(8)]
        undominated = {
            (cost, accuracy)
            for cost, accuracy in points
            if not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
        }
        kept = [points[i] for i in picture.front(points)]
        assert kept == sorted(undominated)


def test_picture_is_a_png_that_depends_on_nothing_but_the_numbers():
    png = picture.tradeoff(crowd())
    assert Image.open(io.BytesIO(png)).size == (1760, 800)
    assert png == picture.tradeoff(crowd())
    assert png != picture.tradeoff(comparison(DENSE))


def test_labels_name_front_and_selected_and_overlap_nothing():
    chosen = crowd()
    figure = picture.draw(chosen)
    figure.canvas.draw()
    for axes, cost in zip(figure.axes, ("size_bytes", "latency_ms_p50"), strict=True):
        texts = [text for text in axes.texts if text.get_text()]
        front = picture.front([(getattr(v, cost), v.accuracy) for v in chosen.variants])
        expected = {chosen.selected.name, *(chosen.variants[i].name for i in front), "↓ 31.0 %"}
        assert {text.get_text() for text in texts} == expected
        boxes = [text.get_window_extent() for text in texts]
        markers = axes.transData.transform([(getattr(v, cost), max(v.accuracy, 0.9)) for v in chosen.variants])
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert not any(box.contains(*marker) for box in boxes for marker in markers)
        inside = axes.get_window_extent()
        assert all(inside.contains(*corner) for box in boxes for corner in box.corners())


def test_variants_that_miss_the_bound_are_hollow_and_squeeze_nothing():
    chosen = crowd()
    axes = picture.draw(chosen).axes[0]
    points = [
        line for line in axes.lines if line.get_markersize() == picture.MARKER_POINTS and line.get_marker() != "None"
    ]
    hollow = [v for v, line in zip(chosen.variants, points, strict=True) if line.get_markerfacecolor() == "white"]
    assert hollow == [v for v in chosen.variants if v not in chosen.qualified] != []
    # The one at 31 % is off the scale; baseline and bound span a third of it or more.
    bottom, top = axes.get_ylim()
    assert 3 * chosen.rule.max_accuracy_drop > top - bottom


# Report

ORIGIN = Origin(
    dataset="flowers & more",
    backbone="bit-test",
    seed=7,
    image_size=IMAGE_SIZE,
    labels=LABELS,
    revision="0123abc",
    finetuned=ModelScores(0.93, 1.0, parameters=478_123, sparsity=0.0, macs=12_345_678),
    pruned={
        "dense": PrunedScores(
            0.93, 1.0, parameters=1000, sparsity=0.79, macs=4_000_000, accuracy_before_recovery=0.5, frozen_norms=7
        )
    },
)


# As the benchmark, convert and prune stages write them.
TIMES = [
    {"layer": "input", "type": "other", "delegate": "QUANTIZE from uint8 to int8", "time_share": "0.05"},
    {"layer": "resnet/a/standardized_conv2d", "type": "conv", "delegate": "xnnpack", "time_share": "0.6"},
    {"layer": "resnet/b/group_norm", "type": "norm", "delegate": "ADD of int8; RSQRT of int8", "time_share": "0.2"},
    {"layer": "resnet/group_norm", "type": "norm", "delegate": "ADD of int8", "time_share": "0.15"},
]


def by_layer(*names, **tables) -> layer_tables.LayerTables:
    """What the report is told of layers: the same times for all variants, and whatever tables."""
    times = {name: layer_tables.time(TIMES) for name in ("dense-float32", "dense-int8", *names)}
    nothing = layer_tables.shares_table({})
    return layer_tables.LayerTables(times, **{"shares": nothing, "errors": nothing, "kept": nothing, **tables})


def predictions(*pairs):
    return [{"actual": a, "predicted": p} for a, p in pairs]


def many_predictions():
    daisy, dandelion, rose = LABELS
    return predictions(*[(daisy, daisy)] * 8, *[(daisy, rose)] * 2, *[(dandelion, dandelion)] * 5, (dandelion, daisy))


def report(
    chosen,
    made_from=ORIGIN,
    layers=None,
    seen=None,
    png=b"",
    wrong=(),
    trained=None,
    params=None,
    sure=None,
    **more,
) -> str:
    """The page of a comparison; what is not given is left out, or many_predictions."""
    seen = many_predictions() if seen is None else seen
    return page.report(
        chosen,
        made_from,
        layers or by_layer(),
        seen,
        wrong,
        trained or {},
        params or {},
        sure or judged.Judged({}, []),
        png,
        **more,
    )


class Page(HTMLParser):
    """Checks that tags are balanced; keeps the attributes of each tag and the text of each table row."""

    VOID = {"meta", "img", "input"}

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.rows = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip() + " " if data.strip() else ""


def test_report_is_self_contained():
    png = picture.tradeoff(comparison(DENSE))
    html = report(comparison(DENSE), png=png)
    tags = Page(html).tags
    addresses = [value for _, attributes in tags for key, value in attributes.items() if key in ("src", "href")]
    assert [base64.b64decode(address.removeprefix("data:image/png;base64,")) for address in addresses] == [png]
    assert "http" not in re.sub("<script.*?</script>", "", html, flags=re.DOTALL)


def test_report_tells_of_every_variant():
    chosen = comparison(DENSE, variant("dense-int8", size_bytes=250, accuracy=0.75, validation_accuracy=0.89))
    html = report(chosen)
    page = Page(html)
    rows = {row[0].split()[0]: row for row in reversed(page.rows) if row and row[0]}
    # 12 of 16: 50.5 % to 89.8 % by Wilson.
    # 12 and 14 of 16: two heads of two coins, or two tails, are one in two.
    assert rows["dense-int8"][:7] == [
        "dense-int8 selected Pareto ", "75.0 % 50.5–89.8 ", "", "89.0 % ", "95.0 % ", "250 B ", "900 B ",
    ]  # fmt: skip
    assert rows["dense-float32"][0] == "dense-float32 baseline Pareto "
    assert rows["dense-float32"][2] == "tie +2 −0, p 0.50 "
    best = [attributes["data-value"] for tag, attributes in page.tags if attributes.get("class") == "best"]
    # Each in its column; ties mark both.
    tied = ["0.95", "900", "2.0", "2.5", "40.0"]
    assert sorted(best) == sorted(["0.9", "0.9", "250", *tied, *tied])
    assert rows["fine-tuned"] == ["fine-tuned ", "93.0 % ", "478 k ", "12.3 M ", "0.0 % ", "0 "]
    assert rows["dense"][-1] == "7 "
    for told in ("flowers &amp; more", "bit-test", "16 × 24", "Test CPU, 1 thread", choice(chosen)):
        assert told in html


def test_report_tells_of_every_layer():
    columns = {
        "dense-float32": {"resnet/root_block/standardized_conv2d": 0.5, "resnet/add": 0.25},
        "dense-int8": {"x": 1.0},
    }
    told = by_layer(
        shares=layer_tables.shares_table(columns),
        errors=layer_tables.errors_table({"dense-int8": {"resnet/add": 24.0}}),
    )
    html = report(comparison(DENSE, variant("dense-int8", delegated=0.5)), layers=told)
    page = Page(html)
    assert [attributes["style"] for _, attributes in page.tags if attributes.get("class") == "bar"] == [
        "--share:60.0%", "--share:35.0%", "--share:5.0%",
    ] * 2  # fmt: skip
    rows = [[cell.strip() for cell in row] for row in page.rows]
    left = "QUANTIZE from uint8 to int8; ADD of int8, in 2 layers; RSQRT of int8"
    assert ["dense-int8", "60.0 %", "35.0 %", "5.0 %", "50.0 %", left] in rows
    assert [row for row in rows if row[0] in ("root_block/conv", "add", "x")] == [
        ["root_block/conv", "50.0", ""], ["add", "25.0", ""], ["x", "", "100.0"], ["add", "24"],
    ]  # fmt: skip
    assert html.count("<details>") == 2  # of tables; nothing was pruned


STEPS = [
    {"step": "0", "layer": "", "type": "", "snr_db": "", "size_bytes": "1000", "latency_ms": "", "accuracy": "0.9",
     "chosen": "true"},
    {"step": "1", "layer": "resnet/a/standardized_conv2d", "type": "int8", "snr_db": "40.4", "size_bytes": "",
     "latency_ms": "", "accuracy": "", "chosen": "true"},
    {"step": "2", "layer": "resnet/a/standardized_conv2d", "type": "int4", "snr_db": "", "size_bytes": "600",
     "latency_ms": "", "accuracy": "0.875", "chosen": "true"},
    {"step": "3", "layer": "resnet/b", "type": "int4", "snr_db": "20.0", "size_bytes": "500", "latency_ms": "",
     "accuracy": "0.5", "chosen": "false"},
    # No step takes it.
    {"step": "", "layer": "resnet/b", "type": "int8", "snr_db": "30.0", "size_bytes": "", "latency_ms": "",
     "accuracy": "", "chosen": "false"},
]  # fmt: skip


def search(rows=STEPS, drop=0.03):
    return steps.Search(steps.steps(rows), drop)


@pytest.mark.parametrize(("slowest", "told"), [(2.1, False), (3.0, True)])
def test_timings_of_a_restless_machine_are_told(slowest, told):
    """The baseline took 2 ms beside itself, and more beside another variant."""
    chosen = comparison(DENSE, variant("dense-int8", baseline_ms_p50=slowest, latency_ms_p50=1.5))
    sentence = variants.unrest(chosen)
    assert bool(sentence) == (sentence in report(chosen) and sentence != "") == told
    assert not told or "dense-float32 took 2.00 ms to 3.00 ms" in sentence
    # Which is faster follows from runs in turns.
    assert chosen.variants[1].relative_latency == 1.5 / slowest


def test_report_tells_how_sure_variants_are_and_the_classes_that_they_know_least(tmp_path):
    scores = {"dense-float32": (0.1, 0.02, 0.0), "dense-int8": (0.25, 0.05, 0.0125)}
    for name, values in scores.items():
        rows = [{"score": key, "value": value} for key, value in zip(judged.MEANINGS, values, strict=True)]
        write_csv(tmp_path / "evaluate" / name / "scores.csv", ["score", "value"], rows)
    known = [("a", 4, 0.75, 0.5), ("<b>", 3, 0.25, ""), ("c", 0, "", "")]
    keys = ("class", "images", "recall", "precision")
    rows = [dict(zip(keys, values, strict=True)) for values in known]
    with pytest.raises(ValueError, match=r"dense-int8/classes\.csv is missing"):
        judged.read(scores, "dense-int8", tmp_path)
    write_csv(tmp_path / "evaluate/dense-int8/classes.csv", keys, rows)
    sure = judged.read(scores, "dense-int8", tmp_path)
    html = report(comparison(DENSE, variant("dense-int8", size_bytes=1)), sure=sure)
    rows = [[cell.strip() for cell in row] for row in Page(html).rows]
    assert ["dense-int8", "0.2500", "0.0500", "0.0125"] in rows
    at = rows.index(["Class", "Test images", "Recall", "Precision"])
    assert rows[at + 1 : at + 4] == [
        ["<b>", "3", "25.0 %", "–"], ["a", "4", "75.0 %", "50.0 %"], ["c", "0", "–", "–"],
    ]  # fmt: skip


def test_report_tells_the_steps_of_a_choice_of_bits():
    found = {"dense-mixed": search()}
    curve = picture.searched(found)
    mixed = comparison(DENSE, variant("dense-mixed", size_bytes=600))
    html = report(mixed, layers=by_layer("dense-mixed"), searches=found, curve=curve)
    page = Page(html)
    rows = [[cell.strip() for cell in row] for row in page.rows]
    at = rows.index(["all", "float32", "", "1.00 kB", "", "0.00"])
    assert rows[at + 1 : at + 4] == [
        ["a/conv", "int8", "40", "", "", ""], ["a/conv", "int4", "", "600 B", "", "2.50"],
        ["b", "int4", "20", "500 B", "", "40.00"],
    ]  # fmt: skip
    assert rows.count(["b", "int8", "30", "", "", ""]) == 0
    assert "The 3 steps of dense-mixed, of which it takes 2" in html and base64.b64encode(curve).decode() in html
    assert "Choosing the bits" not in report(mixed, layers=by_layer("dense-mixed"))


@pytest.mark.parametrize("timed", [False, True])
def test_curve_leads_through_the_files_tried_to_the_one_taken(timed):
    rows = [
        row | {"latency_ms": str(int(row["size_bytes"]) / 100)} if timed and row["size_bytes"] else row for row in STEPS
    ]
    figure = picture.draw_searches({"dense-mixed": search(rows), "dense-other": search(STEPS, 0.1)})
    by_size, *by_latency = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in by_size.lines}
    assert lines["dense-mixed"] == [[1000, 0], pytest.approx([600, -2.5]), pytest.approx([500, -40])]
    dashed = [line.get_ydata() for line in by_size.lines if line.get_linestyle() == "--"]
    assert dashed == [pytest.approx([-3] * 2), pytest.approx([-10] * 2)]
    rings = [line.get_xydata().tolist() for line in by_size.lines if line.get_markersize() > 8]
    assert rings == [[pytest.approx([600, -2.5])]] * 2
    assert len(by_latency) == timed
    for axes in by_latency:
        lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
        assert lines["dense-mixed"] == [[10, 0], pytest.approx([6, -2.5]), pytest.approx([5, -40])]
        assert "dense-other" not in lines


def test_searches_are_read_of_the_variants_of_scheme_mixed(tmp_path):
    params = Params.model_validate(
        {
            "dataset": {"name": "mnist5k"}, "backbone": {"name": "bit-tiny"},
            "quantization": {
                "float32": {"scheme": "float32"}, "few": {"scheme": "mixed", "max_accuracy_drop": 0.5},
            },
        }
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"convert/dense-few/steps\.csv is missing: run `dvc repro`$"):
        steps.read(params.variants, params.quantization, tmp_path)
    write_csv(tmp_path / "convert/dense-few/steps.csv", STEPS[0], STEPS)
    (tmp_path / "convert/dense-float32").mkdir()
    assert steps.read(params.variants, params.quantization, tmp_path) == {"dense-few": search(drop=0.5)}
    assert [step.number for step in search().tried] == [0, 2, 3] and search().chosen.number == 2


def test_report_tells_where_each_runs_and_shows_no_null_as_a_pass():
    refused = {"gpu_agreement": 0.0, "gpu_whole": False, "npu_share": 1.0, "npu_cycles": 4_600_000}
    chosen = comparison(DENSE, variant("dense-int8", size_bytes=250, tflm_agreement=0.5, tflm_arena_bytes=7, **refused))
    html = report(chosen)
    page = Page(html)
    rows = [[cell.strip() for cell in row] for row in page.rows]
    unchecked = ["not checked"] * len(PLACES)
    assert ["dense-float32", "reference", *unchecked, "TensorFlow Lite 2.5.0"] in rows
    found = ["refuses", "not checked", "50.0 % 7 B", "whole 4.60 M cycles on ethos-u55-256"]
    assert ["dense-int8", "reference", *found, "TensorFlow Lite 2.5.0"] in rows
    cells = [attributes.get("class") for tag, attributes in page.tags if tag == "td"]
    shown = [cell for cell in cells if cell in ("fit", "unfit", "unchecked")]
    assert shown == ["unchecked"] * len(PLACES) + ["unfit", "unchecked", "unfit", "fit"]
    assert advice(chosen) in html
    assert '<p class="warning">dense-int8 is not for GPUs or microcontrollers.</p>' in html
    assert 'class="warning"' not in report(comparison(DENSE))


def test_report_warns_of_latencies_from_two_machines():
    elsewhere = variant("dense-int8", cpu="Other CPU")
    assert "do not compare" in report(comparison(DENSE, elsewhere))
    assert "do not compare" not in report(comparison(DENSE))


def test_report_marks_latencies_of_another_machine():
    html = report(comparison(DENSE, variant("dense-int8", cpu="Other CPU")))
    rows = {row[0].split()[0]: row for row in reversed(Page(html).rows) if row and row[0]}
    assert "2.00 ms Other CPU, 1 thread " in rows["dense-int8"]
    assert "2.00 ms Test CPU, 1 thread " in rows["dense-float32"]


def test_report_tells_what_nothing_fits_and_what_each_misses():
    refused = comparison(DENSE, variant("dense-int8", size_bytes=500, validation_accuracy=0.85), max_size_bytes=400)
    html = report(refused)
    assert "<h1>No variant fits</h1>" in html and choice(refused) in html
    rows = [[cell.strip() for cell in row] for row in Page(html).rows]
    assert ["Variant", "max_accuracy_drop", "max_size_bytes"] in rows
    assert ["dense-int8", "85.0 % 3 points short", "500 B 100 B over"] in rows
    assert ["dense-float32", "90.0 %", "1.00 kB 600 B over"] in rows
    assert not any("selected" in row[0] for row in rows if row)


def test_report_escapes_names_wherever_they_stand():
    name = "</script><script>alert(1)</script>"
    wrong = [mistakes.Mistake(name, "rose", 0.75, "data:image/png;base64,", (1, 1))]
    origin_ = dataclasses.replace(ORIGIN, labels=(name, "rose"), dataset=name)
    html = report(
        comparison(DENSE), origin_, seen=predictions((name, "rose")), wrong=wrong,
        trained={name: {"loss": [(1, 1.0)]}}, params={"dataset": {"name": name}},
    )  # fmt: skip
    assert name not in html and html.count("&lt;script&gt;alert(1)") > 4
    assert len(re.findall("<script[ >]", html)) == len(re.findall("</script>", html)) == 6
    for content in re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL):
        json.loads(content)


def test_report_tells_the_parameters_and_the_revision():
    html = report(comparison(DENSE), params={"seed": 7, "pruning": {"dense": {"method": "none"}}})
    assert "<pre>seed: 7\npruning:\n  dense:\n    method: none</pre>" in html and "0123abc" in html


def test_report_shows_the_matrix_of_few_classes():
    page = Page(report(comparison(DENSE)))
    rows = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in page.rows if row and row[0].strip() in LABELS}
    assert rows == {"daisy": ["8", "", "2"], "dandelion": ["1", "5", ""], "rose": ["", "", ""]}
    shades = [float(a["style"].removeprefix("--shade:")) for tag, a in page.tags if "--shade" in a.get("style", "")]
    assert shades == pytest.approx(np.sqrt([0.8, 0, 0.2, 1 / 6, 5 / 6, 0, 0, 0, 0]).tolist(), abs=5e-4)


def test_report_lists_the_pairs_of_many_classes():
    labels = tuple(f"<class {i}>" for i in range(21))
    seen = predictions(*[(labels[1], labels[2])] * 3, (labels[1], labels[1]), (labels[0], labels[20]))
    html = report(comparison(DENSE), dataclasses.replace(ORIGIN, labels=labels), seen=seen)
    rows = [[cell.strip() for cell in row] for row in Page(html).rows]
    first = rows.index(["<class 1>", "<class 2>", "3", "75.0 %"])
    assert rows[first + 1] == ["<class 0>", "<class 20>", "1", "100.0 %"]


def test_prediction_of_an_unknown_class_is_named():
    with pytest.raises(ValueError, match="'tulip'.*daisy, dandelion, rose"):
        confusion(predictions(("daisy", "tulip")), LABELS)


# Release


@pytest.fixture(scope="module")
def bit():
    """A BiT with a random head, so that its logits differ."""
    head = f"{HEAD}/kernel"
    kernel = np.random.default_rng(1).normal(size=FINETUNED.weights[head].shape).astype(np.float32)
    return FINETUNED.with_weights({**FINETUNED.weights, head: kernel})


@pytest.fixture(scope="module")
def tflite(bit, tmp_path_factory):
    """Paths of the model in float32, in integers from uint8 to uint8 and of an odd input scale, and with softmax."""
    float32, softmax = to_file(lower(bit)), to_file(lower(bit, [probabilities]))
    images = np.random.default_rng(2).integers(256, size=(4, *IMAGE_SIZE, 3), dtype=np.uint8)
    ranges = calibration.ranges(float32, images)
    # The range of the pixels becomes the scale of the input.
    odd = {**ranges, "pixels": {"min": np.zeros(1, np.float32), "max": np.full(1, 240, np.float32)}}
    directory = tmp_path_factory.mktemp("tflite")
    contents = {
        "float32": float32,
        "uint8": quantizer.integers(float32, ranges, activations="int8", pixels="uint8"),
        "int8": quantizer.integers(float32, odd, activations="int8", pixels="int8"),
        "float32-softmax": softmax,
        "uint8-softmax": quantizer.integers(
            softmax, calibration.ranges(softmax, images), activations="int8", pixels="uint8"
        ),
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return {name: directory / name for name in contents}


@pytest.fixture
def photo(tmp_path):
    """A picture of another aspect than the model's, with transparency, turned by its EXIF tag."""
    random_pixels = np.random.default_rng(7).integers(0, 230, (5, 9, 4), np.uint8)
    random_pixels[..., 3] = (
        190 + random_pixels[..., 3] // 4
    )  # so that the image stays one like those of the calibration
    image = Image.fromarray(random_pixels).resize((90, 50))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "photo.png", exif=exif)
    return tmp_path / "photo.png"


FILES = [("float32", 0.001), ("uint8", 0.1), ("int8", 0.1), ("float32-softmax", 0.001), ("uint8-softmax", 0.1)]


@pytest.mark.parametrize(("name", "tolerance"), FILES)
def test_snippet_of_the_card_classifies_a_photo(name, tolerance, tflite, bit, photo, tmp_path):
    card = release.card(comparison(DENSE), ORIGIN, {"dataset": {"background": "#a06446"}}, tflite[name], 16)
    directory = tmp_path / "release"
    release.write(directory, tflite[name], LABELS, card)
    assert sorted(path.name for path in directory.iterdir()) == ["README.md", "labels.txt", "model.tflite"]
    (snippet,) = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    (directory / "classify.py").write_text(snippet)
    done = subprocess.run(
        [sys.executable, "classify.py", str(photo)], cwd=directory, capture_output=True, text=True, check=True
    )

    # EXIF orientation 6: shown turned by 90 degrees clockwise. Transparent pixels lie on the background.
    stored = np.asarray(Image.open(photo), float)
    opaque = stored[..., 3:] / 255
    upright = np.rot90(stored[..., :3] * opaque + (160, 100, 70) * (1 - opaque), -1)
    upright = Image.fromarray(np.rint(upright).astype(np.uint8))
    pixels = np.asarray(upright.resize(IMAGE_SIZE[::-1], Image.Resampling.BILINEAR), np.float32)
    logits = runtime.Classifier(tflite["float32"]).logits(pixels[None])[0]
    expected = dict(zip(LABELS, np.exp(logits) / np.exp(logits).sum(), strict=True))
    printed = [line.split() for line in done.stdout.splitlines()]
    shares = [float(share.rstrip("%")) / 100 for share, _ in printed]
    assert {label: share for share, (_, label) in zip(shares, printed, strict=True)} == pytest.approx(
        expected, abs=tolerance
    )
    assert shares == sorted(shares, reverse=True)
    assert max(expected.values()) - min(expected.values()) > 4 * tolerance  # or the test could not tell


def test_snippet_of_the_card_splits_labels_at_line_feeds_alone(tflite, tmp_path, monkeypatch):
    labels = ("a\x0cb", "c\x1dd", "e\x85f", "g\u2028h", "red fox")
    card = release.card(comparison(DENSE), ORIGIN, {}, tflite["float32"], 16)
    release.write(tmp_path / "release", tflite["float32"], labels, card)
    monkeypatch.chdir(tmp_path / "release")
    (line,) = re.findall(r"^labels = (.*)$", card, re.MULTILINE)
    assert tuple(eval(line)) == labels


def snippet_run(tflite, directory, photo: bytes) -> subprocess.CompletedProcess:
    """What the card's code does with this file."""
    card = release.card(comparison(DENSE), ORIGIN, {}, tflite["float32"], 16)
    (snippet,) = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    release.write(directory, tflite["float32"], LABELS, "")
    (directory / "photo").write_bytes(photo)
    return subprocess.run([sys.executable, "-c", snippet, "photo"], cwd=directory, capture_output=True, text=True)


@pytest.mark.parametrize(
    "photo",
    [
        png_file(np.full((20, 30), 4095), bits=16, color=0),
        png_file(np.full((20, 30, 2), 4095), bits=16, color=4),
        png_file(np.full((20, 30, 3), 4095), bits=16, color=2),
        png_file(np.full((20, 30, 4), 4095), bits=16, color=6),
        tiff_file(np.full((20, 30, 3), 4095, np.uint16)),
        tiff_file(np.full((20, 30, 3), 4095, np.uint16), deflate=True),
        tiff_file(np.full((20, 30), 0.5, np.float32)),
    ],
    ids=["grey", "grey and alpha", "RGB", "RGBA", "TIFF", "deflated", "float"],
)
def test_snippet_of_the_card_refuses_deep_samples(photo, tflite, tmp_path):
    done = snippet_run(tflite, tmp_path / "release", photo)
    assert done.returncode == 1 and "\nmore than 8 bits a sample" in done.stderr


def test_snippet_of_the_card_takes_broken_exif_and_pixels_of_16_bits(tflite, tmp_path):
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)  # of a BMP of 5, 6 and 5 bits
    header = struct.pack("<IiiHHIIiiII", 40, 30, 20, 1, 16, 3, 1200, 0, 0, 0, 0)
    bmp = b"BM" + struct.pack("<IHHI", 66 + 1200, 0, 0, 66) + header + masks + bytes(1200)
    for photo in (encoded(Image.new("RGB", (30, 20)), "PNG", exif=b"garbage"), bmp):
        done = snippet_run(tflite, tmp_path / "release", photo)
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 3


def test_card_warns_of_faint_images_where_no_norm_is_left(tflite):
    def warns(entry: dict) -> bool:
        card = release.card(comparison(DENSE), ORIGIN, {"pruning": {"dense": entry}}, tflite["float32"], 16)
        return "faint images" in card

    channels, norms = {"method": "channels"}, {"method": "norm_free", "norms": "all"}
    assert warns(norms) and warns({"method": "combine", "parts": [channels, norms]})
    assert not warns({"method": "norm_free", "norms": "inner"}) and not warns(channels)


def test_card_describes_the_file(tflite):
    recipe = {"seed": 7, "pruning": {"dense": {"keep": 0.5}}}
    card = release.card(comparison(DENSE), ORIGIN, recipe, tflite["uint8"], 16)
    assert "| input | 1 × 16 × 24 × 3 | uint8 | RGB pixels 0..255, quantized: scale 1.0, zero point 0 |" in card
    assert "| output | 1 × 3 | uint8 | logits in the order of `labels.txt`, quantized: scale 0." in card
    assert "| latency of one image | 2.00 ms median, 2.50 ms 90th percentile |" in card
    assert "| measured on | Test CPU, 1 thread |" in card
    assert "```yaml\nseed: 7\npruning:\n  dense:\n    keep: 0.5\n```" in card
    assert "Apache License 2.0" in card
    plain = release.card(comparison(DENSE), ORIGIN, {}, tflite["float32"], 16)
    assert "| input | 1 × 16 × 24 × 3 | float32 | RGB pixels 0..255 |\n| output | 1 × 3 | float32 | logits in" in plain
    assert "softmax turns the logits into probabilities" in plain
    softmax = release.card(comparison(DENSE), ORIGIN, {}, tflite["uint8-softmax"], 16)
    assert (
        "| output | 1 × 3 | uint8 | probabilities in the order of `labels.txt`, quantized: scale 0.00390625," in softmax
    )
    assert "logits" not in softmax


def test_card_tells_where_the_file_runs(tflite):
    board = variant("dense-float32", tflm_agreement=0.995, tflm_arena_bytes=207_000, npu_share=0.0)
    card = release.card(comparison(board), ORIGIN, {}, tflite["float32"], 16)
    found = dict(re.findall(r"^\| (GPU|float16|Microcontroller|NPU|Oldest runtime) \| (.*?) \|", card, re.MULTILINE))
    assert found == {
        "GPU": "not checked", "float16": "not checked", "Microcontroller": "99.5 % (207 kB)", "NPU": "none",
        "Oldest runtime": "TensorFlow Lite 2.5.0",
    }  # fmt: skip
    assert "\n\ndense-float32 is not for NPUs.\n\n## Made with" in card
    unchecked = release.card(comparison(DENSE), ORIGIN, {}, tflite["float32"], 16)
    assert "is not for" not in unchecked and "\n\n## Made with" in unchecked


# Stage


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A prepared data set, whose test images are those of many_predictions."""
    directory = tmp_path_factory.mktemp("images") / "dataset"
    test = [(png(noise_of(number)), LABELS.index(row["actual"])) for number, row in enumerate(many_predictions())]
    dataset.write(directory, LABELS, {split: test for split in dataset.SPLITS})
    return directory


@pytest.fixture
def workspace(tmp_path, monkeypatch, tflite, images):
    """What the stage reads: four variants, of which channels-int8 is the smallest that qualifies."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "seed: 7\ndataset: {name: mnist5k}\nbackbone: {name: bit-tiny}\n"
        "pruning: {dense: {method: none}, channels: {method: channels, keep: 0.25}}\n"
        "quantization: {float32: {scheme: float32}, int8: {scheme: int8, calibration_images: 9}}\n"
    )
    made = (
        DENSE,
        variant("dense-int8", size_bytes=300),
        variant("channels-float32", size_bytes=400, latency_ms_p50=1.0),
        variant(
            "channels-int8", size_bytes=100, accuracy=0.8, validation_accuracy=0.885, latency_ms_p50=0.5,
            gpu_agreement=0.0, gpu_whole=False,
        ),
        # Of a pruning that params.yaml no longer holds.
        variant("removed-int8", size_bytes=1),
    )  # fmt: skip
    write_metrics(Path("metrics"), *made)
    metrics.write(Path("metrics/finetune.json"), ORIGIN.finetuned)
    for name in ("dense", "channels"):
        metrics.write(Path(f"metrics/prune/{name}.json"), ORIGIN.pruned["dense"])
    FINETUNED.save(Path("models/finetuned"))
    Path("data").mkdir()
    Path("data/dataset").symlink_to(images)
    write_curve(Path("plots/finetune"), "loss", [(8, 2.5)])
    write_layers(Path("plots"), [v.name for v in made], ["dense", "channels"])
    for v in made:
        rows = [row | {"confidence": 0.5} for row in many_predictions()]
        write_csv(Path("plots/evaluate") / v.name / "predictions.csv", list(rows[0]), rows)
        scores = [{"score": key, "value": 0.1} for key in judged.MEANINGS]
        write_csv(Path("plots/evaluate") / v.name / "scores.csv", ["score", "value"], scores)
        classes = [{"class": name, "images": 1, "recall": 1.0, "precision": 1.0} for name in LABELS]
        write_csv(Path("plots/evaluate") / v.name / "classes.csv", list(classes[0]), classes)
        Path("models/tflite").mkdir(exist_ok=True)
        file = tflite["uint8" if v.quantization == "int8" else "float32"]
        Path(f"models/tflite/{v.name}.tflite").write_bytes(file.read_bytes())
    return tmp_path


def outputs_but_report() -> list[str]:
    names = ["metrics/summary.json", "plots/tradeoff.csv", "plots/tradeoff.png"]
    return names + [f"models/release/{name}" for name in ("model.tflite", "labels.txt", "README.md")]


def outputs() -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in ("report.html", *outputs_but_report())}


def written() -> str:
    """The report without the plotting library's script."""
    return Path("report.html").read_text().replace(charts.script(), "")


def test_stage(workspace, capsys):
    compare.main()
    assert json.loads(Path("metrics/summary.json").read_text())["selected"] == "channels-int8"
    rows = read_csv(Path("plots/tradeoff.csv"))
    assert [row["variant"] for row in rows] == ["dense-float32", "dense-int8", "channels-float32", "channels-int8"]
    assert Path("models/release/model.tflite").read_bytes() == Path("models/tflite/channels-int8.tflite").read_bytes()
    assert Path("models/release/labels.txt").read_text() == "daisy\ndandelion\nrose\n"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines if line.startswith(">")] == [[">", "channels-int8", "80.0"]]
    assert "channels-int8 is not for GPUs." in lines
    assert "removed" not in written()


def test_stage_shows_what_the_choice_gets_wrong(workspace):
    compare.main()
    html = Path("report.html").read_text()
    stored = [Image.open(io.BytesIO(content)) for content, _ in dataset.examples("test")]
    wrong = [number for number, row in enumerate(many_predictions()) if row["actual"] != row["predicted"]]
    shown = [base64.b64decode(each) for each in re.findall(r'src="data:image/png;base64,([^"]*)" class="exact"', html)]
    assert len(shown) == len(wrong) == 3
    for number, content in zip(wrong, shown, strict=True):
        assert np.array_equal(Image.open(io.BytesIO(content)), stored[number])
    assert "3 of 16 test images" in html and "training loss" in html


def test_stage_fails_if_nothing_fits_and_writes_the_report_alone(workspace, capsys):
    with Path("params.yaml").open("a") as file:
        file.write("compare: {max_size_bytes: 50, max_latency_ms: 0.5}\n")
    with pytest.raises(
        ValueError, match="^no variant meets all constraints: the nearest, channels-int8, would with max_"
    ):
        compare.main()
    assert "No variant fits" in Path("report.html").read_text()
    assert not any(Path(name).exists() for name in outputs_but_report())
    lines = [re.split("  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["variant", "max_accuracy_drop", "max_size_bytes", "max_latency_ms"],
        ["channels-int8", "88.5 %", "100 B, 50 B over", "0.500 ms"],
        ["dense-int8", "90.0 %", "300 B, 250 B over", "2.00 ms, 1.50 ms over"],
        ["channels-float32", "90.0 %", "400 B, 350 B over", "1.00 ms, 0.500 ms over"],
        ["dense-float32", "90.0 %", "1.00 kB, 950 B over", "2.00 ms, 1.50 ms over"],
    ]


def test_card_holds_the_params_that_made_the_model(workspace):
    compare.main()
    (block,) = re.findall(r"```yaml\n(.*?)```", Path("models/release/README.md").read_text(), re.DOTALL)
    made_with = YAML(typ="safe").load(block)
    asked = load()
    assert list(made_with["pruning"]) == ["channels"] and list(made_with["quantization"]) == ["int8"]
    again = Params.model_validate({**made_with, "compare": {"baseline": "channels-int8"}})
    assert again.pruning["channels"] == asked.pruning["channels"]
    assert again.quantization["int8"] == asked.quantization["int8"]
    assert (again.seed, again.finetune, again.dataset) == (asked.seed, asked.finetune, asked.dataset)
    assert again.backbone.name == FINETUNED.architecture.name


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("mnist5k", "mnist5k"),
        ("oxford_flowers102:2.1.1", "oxford_flowers102:2.1.1"),
        ("imagenet_v2/topimages", "imagenet_v2/topimages"),
        ("photos", "photos"),
        ("/mnt/clients/acme/photos/", "photos"),
        ("clients/acme", "acme"),
        ("~/acme", "acme"),
        ("../acme/./photos/../pictures", "pictures"),
        ("/mnt/clients/acme/my_set/1.0.0", "my_set:1.0.0"),
    ],
)
def test_name_of_a_data_set_that_may_be_published(name, public):
    assert origin.public(name) == public


def test_a_folder_named_as_a_tfds_set_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("imagenet_v2/topimages").mkdir(parents=True)
    assert origin.public("imagenet_v2/topimages") == "topimages"


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>", "[shop](https://evil.example)", "![x](https://evil.example/x.png)", "a | b | c",
        "`code` *strong* _soft_ ~~gone~~", "two\n\n# lines", "\x1b[2Jgone", "<img src=x onerror=alert(1)>", "&lt;b&gt;",
        "```\n# out of the fence", "a_b__c_",
    ],
)  # fmt: skip
def test_names_are_no_markup_in_the_card(workspace, name):
    group = re.escape(name)
    text = Path("params.yaml").read_text().replace("{name: mnist5k}", json.dumps({"name": name, "group": group}))
    Path("params.yaml").write_text(text)
    FINETUNED.with_weights(FINETUNED.weights, name=name).save(Path("models/finetuned"))
    for timing in Path("metrics/benchmark").glob("*.json"):
        timing.write_text(json.dumps(json.loads(timing.read_text()) | {"cpu": name}))
    compare.main()
    card = Path("models/release/README.md").read_text()
    assert printable(card.replace("\n", "")) == card.replace("\n", "")
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(card)
    texts = [token for outer in tokens for token in (outer, *(outer.children or []))]
    assert {"html_block", "html_inline", "image", "s_open"}.isdisjoint(token.type for token in texts)
    assert not [token for token in texts if token.type == "link_open" and "evil" in str(token.attrs)]
    shown = "".join(token.content for token in texts if token.type == "text")
    assert shown.count(printable(origin.public(name))) >= 2 and shown.count(printable(name)) >= 2
    (block,) = [token.content for token in tokens if token.type == "fence" and token.info == "yaml"]
    assert YAML(typ="safe").load(block)["dataset"]["group"] == group
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert headings[0] == "channels-int8" and not [each for each in headings if "lines" in each or "fence" in each]


def test_nothing_private_is_published(workspace):
    text = Path("params.yaml").read_text()
    text = text.replace("{name: mnist5k}", "{name: /mnt/acme/photos, data_dir: /mnt/acme/tfds}")
    text = text.replace("{name: bit-tiny}", "{name: mine, source: 'https://ann:pw@acme.example/BiT.npz?token=abc'}")
    Path("params.yaml").write_text(text)
    compare.main()
    for name, content in outputs().items():
        assert not re.search(rb"acme|ann:|token|/mnt", content.replace(charts.script().encode(), b"")), name
    for name in ("report.html", "models/release/README.md"):
        assert "photos" in Path(name).read_text()


def test_stage_gives_the_same_bytes_again(workspace):
    compare.main()
    first = outputs()
    compare.main()
    assert outputs() == first


def test_stage_that_fails_leaves_the_release_as_it_was(workspace):
    compare.main()
    before = outputs()
    Path("metrics/benchmark/dense-int8.json").unlink()
    with pytest.raises(ValueError, match=r"^metrics/benchmark/dense-int8\.json is missing: run `dvc repro`$"):
        compare.main()
    assert outputs() == before


def replaced(old: bytes, new: bytes):
    return lambda content: content.replace(old, new, 1)


JUDGED = "plots/evaluate/channels-int8"
PREDICTIONS, SCORES, CLASSES = f"{JUDGED}/predictions.csv", f"{JUDGED}/scores.csv", f"{JUDGED}/classes.csv"
SHARES, ERRORS = "plots/benchmark/dense-int8/layers.csv", "plots/convert/dense-int8/layers.csv"
KEPT = "plots/prune/dense/layers.csv"
CURVE = "plots/finetune/plots/metrics/loss.tsv"
FILE = "models/tflite/channels-int8.tflite"
ALL = [
    PREDICTIONS,
    SCORES,
    CLASSES,
    SHARES,
    ERRORS,
    KEPT,
    CURVE,
    FILE,
    "metrics/evaluate/dense-int8.json",
    "metrics/benchmark/dense-int8.json",
    "metrics/where/dense-int8.json",
    "metrics/finetune.json",
    "metrics/prune/dense.json",
    "models/finetuned/architecture.json",
    "models/finetuned/weights.npz",
]


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        *((path, lambda content: b"") for path in ALL),
        *((path, lambda content: bytes(range(256))) for path in ALL),
        *((path, lambda content: content[: len(content) // 3]) for path in (FILE, SCORES)),
        *((path, lambda content: None) for path in ALL if path != CURVE),  # what did not train has none
        *((PREDICTIONS, replaced(b"0.5", text)) for text in (b"x", b"7", b"nan", b"-1", b"")),
        (PREDICTIONS, replaced(b"confidence", b"sureness")),
        (SCORES, replaced(b"log_loss", b"logloss")), (SCORES, replaced(b"0.1", b"inf")),
        (CLASSES, replaced(b",1,", b",-1,")), (CLASSES, replaced(b"1.0", b"1.1")),
        (SHARES, replaced(b",conv,", b",con,")), (KEPT, replaced(b"sparsity", b"density")),
    ],
)  # fmt: skip
def test_damaged_input_is_told_in_one_line_and_nothing_is_written(workspace, path, damage):
    content = damage(Path(path).read_bytes())
    if content is None:
        Path(path).unlink()
    else:
        assert content != Path(path).read_bytes()
        Path(path).write_bytes(content)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    with pytest.raises(InputError) as error:
        compare.main()
    told = str(error.value)
    damaged_model = "finetuned" in path and content is not None  # of which no file is named
    assert told.startswith("models/finetuned " if damaged_model else path) and "dvc repro" in told
    assert len(told.splitlines()) == 1
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_release_is_whole_or_not_at_all(tmp_path):
    (tmp_path / "model").write_bytes(b"new")
    directory = tmp_path / "release"
    directory.mkdir()
    (directory / "model.tflite").write_bytes(b"old")
    with pytest.raises(TypeError):
        release.write(directory, tmp_path / "model", LABELS, card=None)
    assert [(path.name, path.read_bytes()) for path in directory.iterdir()] == [("model.tflite", b"old")]


def test_stage_imports_neither_tensorflow_nor_pyplot():
    code = "import sys, stages.compare; print({'tensorflow', 'matplotlib.pyplot'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
