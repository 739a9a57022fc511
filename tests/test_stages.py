"""The stages from fine-tuning to benchmark, run through their `main` on a small data set and a small backbone."""

import csv
import errno
import getpass
import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitlite.bit import names
from bitlite.bit.shapes import Shape
from bitlite.bit.weights import Bit, untrained
from bitlite.images import dataset
from bitlite.litert import latency, runtime
from bitlite.training import loop
from bitlite.training.curves import logged
from bitlite.training.recipe import finetuning_recipe_on_dataset
from bitlite.training.step import training_step
from bitlite.workflow.errors import InputError
from bitlite.workflow.files import read_csv
from bitlite.workflow.params import Finetune
from bitlite.workflow.paths import interrupted
from stages import benchmark, convert, evaluate, finetune, prune

ROOT = Path(__file__).parents[1]
PARAMS = """
seed: 3
dataset: {name: colours}
backbone: {name: small}
finetune: {steps: 12, batch_size: 12, learning_rate: 0.03, image_size: 16, resize: 18, mixup: 0.1}
pruning:
  dense: {method: none}
  magnitude: {method: magnitude, sparsity: 0.6, steps: 4, batch_size: 12, learning_rate: 0.01}
  channels: {method: channels, keep: 0.5, steps: 4, batch_size: 12, learning_rate: 0.01}
quantization:
  float32: {scheme: float32}
  float16: {scheme: float16}
  dynamic: {scheme: dynamic}
  int8: {scheme: int8, calibration_images: 12}
where: {images: 2}
benchmark: {threads: 2, warmup_runs: 1, runs: 400}
"""
LABELS = ("red", "green", "blue", "yellow", "violet", "cyan")
COLOURS = 70 + 110 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
SPLITS = {"train": 36, "validation": 12, "test": 18}
PRUNINGS = ("dense", "magnitude", "channels")
VARIANTS = ("dense-float32", "dense-float16", "dense-dynamic", "dense-int8", "magnitude-float32", "channels-float32")
CURVES = ("loss", "accuracy", "validation_accuracy", "learning_rate")
MODEL_METRICS = {"accuracy", "top5_accuracy", "parameters", "sparsity", "macs"}


def examples(split):
    """Noise about a colour of the class. Every sixth image bears the label of the class after, so that nothing can be
    right about all of them."""
    random = np.random.default_rng(sorted(SPLITS).index(split))
    for index in range(SPLITS[split]):
        label = index % 6
        pixels = np.clip(random.normal(COLOURS[label], 50, (20, 18, 3)), 0, 255).astype(np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "png")
        yield encoded.getvalue(), (label + (index % 7 == 6)) % 6


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """The directory in which every stage has run."""
    directory = tmp_path_factory.mktemp("private-7391")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        Path("params.yaml").write_text(PARAMS)
        dataset.write(dataset.DATASET, LABELS, {split: list(examples(split)) for split in SPLITS})
        backbone = untrained(
            "small", Shape(filters=16, units=(1,), groups=8, root=3, pool=False, image_size=(32, 32)), seed=0
        )
        backbone.save(Path("models/backbone"))
        finetune.main()
        for name in PRUNINGS:
            prune.main(name)
        for variant in VARIANTS:
            convert.main(*variant.split("-"))
            evaluate.main(variant)
        # In a process of its own, as for users: one that has run other stages has memory to spare, and need not grow.
        command = [sys.executable, "-m", "stages.benchmark", "dense-float32"]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return directory


@pytest.fixture(autouse=True)
def _in_workspace(workspace, monkeypatch):
    monkeypatch.chdir(workspace)


@pytest.fixture
def copy(workspace, tmp_path, monkeypatch):
    """A copy of the workspace to run stages in again."""
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def metrics(path):
    return json.loads(Path("metrics", f"{path}.json").read_text())


def predicted(folder):
    rows = read_csv(Path("plots") / folder / "predictions.csv")
    assert all(set(row) == {"actual", "predicted", "confidence"} for row in rows)
    assert all({row["actual"], row["predicted"]} <= set(LABELS) for row in rows)
    return [row["predicted"] for row in rows], [row["actual"] for row in rows]


def actual(split="test"):
    """The labels; TFDS stores the images in an order of its own."""
    return [LABELS[label] for _, label in examples(split)]


def share(some, others):
    assert len(some) == len(others)
    return sum(a == b for a, b in zip(some, others, strict=True)) / len(some)


def curve(stage, name):
    """What DVCLive logged, by step."""
    with Path(f"plots/{stage}/plots/metrics/{name}.tsv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file, delimiter="\t")}


def contents(*folders):
    return {path: path.read_bytes() for f in folders for path in sorted(Path(f).rglob("*")) if path.is_file()}


# What the stages write


def test_outputs(workspace):
    models = [f"models/{name}" for name in ("backbone", "finetuned", *(f"pruned/{name}" for name in PRUNINGS))]
    expected = {f"{m}/{file}" for m in models for file in ("architecture.json", "weights.npz")}
    expected |= {f"models/tflite/{variant}.tflite" for variant in VARIANTS}
    expected |= {"metrics/finetune.json", "plots/finetune/predictions.csv"}
    for name in PRUNINGS:
        expected |= {f"metrics/prune/{name}.json", f"plots/prune/{name}/layers.csv"}
    for log in ("finetune", "prune/magnitude", "prune/channels"):
        expected |= {f"plots/{log}/metrics.json", *(f"plots/{log}/plots/metrics/{curve}.tsv" for curve in CURVES)}
    for variant in VARIANTS:
        expected |= {f"metrics/{stage}/{variant}.json" for stage in ("evaluate", "where")}
        expected |= {f"plots/evaluate/{variant}/{name}.csv" for name in ("predictions", "classes", "scores")}
        expected |= {f"plots/convert/{variant}/layers.csv"}
    expected |= {"metrics/benchmark/dense-float32.json", "plots/benchmark/dense-float32/layers.csv"}
    # No scratch files are left, hidden ones included.
    assert {str(path) for path in contents("models", "metrics", "plots")} == expected


def test_no_output_tells_where_or_on_what_machine_it_was_made(workspace):
    private = {"private-7391", f"{Path.home()}/", socket.gethostname(), getpass.getuser()}
    private = {text for text in private if len(text) > 4}  # short ones stand in other words
    for path, content in contents("data", "models", "metrics", "plots").items():
        assert not [text for text in private if text.encode() in content or text.encode("utf-16-le") in content], path


def test_finetune():
    values = metrics("finetune")
    assert set(values) == MODEL_METRICS
    guesses, truth = predicted("finetune")
    assert sorted(truth) == sorted(actual())
    assert values["accuracy"] == pytest.approx(share(guesses, truth))
    assert 1 / 6 < values["accuracy"] <= values["top5_accuracy"] <= 1
    bit = Bit.load(Path("models/finetuned"))
    assert bit.architecture.labels == LABELS and bit.architecture.image_size == (16, 16)
    assert values["parameters"] == sum(weights.size for weights in bit.weights.values())
    # By hand: the root, a, b, c and proj at 8 x 8, and the head.
    assert values["macs"] == 8 * 8 * (27 * 16 + 16 * 16 + 9 * 16 * 16 + 16 * 64 + 16 * 64) + 64 * 6
    assert values["sparsity"] == 0
    losses = curve("finetune", "loss")
    assert list(losses) == list(range(1, 13)) == list(curve("finetune", "learning_rate"))
    assert losses[12] < losses[1]
    assert curve("finetune", "accuracy")[12] > 1 / 6 < curve("finetune", "validation_accuracy")[12]


def test_finetuning_changes_the_backbone_it_was_given():
    backbone, finetuned = (Bit.load(Path("models") / name) for name in ("backbone", "finetuned"))
    assert set(finetuned.weights) == {*backbone.weights, f"{names.HEAD}/kernel", f"{names.HEAD}/bias"}
    assert not any(np.array_equal(finetuned.weights[name], value) for name, value in backbone.weights.items())


def test_prune():
    dense, magnitude, channels = (metrics(f"prune/{name}") for name in PRUNINGS)
    assert set(magnitude) == set(channels) == MODEL_METRICS | {"accuracy_before_recovery", "frozen_norms"}
    assert dense == metrics("finetune") | {"accuracy_before_recovery": dense["accuracy"], "frozen_norms": 0}
    assert {key: magnitude[key] for key in ("parameters", "macs")} == {
        key: dense[key] for key in ("parameters", "macs")
    }
    # Of the kernels' 5,424 weights, those of root and head stay.
    assert magnitude["sparsity"] == pytest.approx(0.6 * 4608 / 5424, abs=0.01)
    assert channels["macs"] < 0.7 * dense["macs"] and channels["parameters"] < 0.7 * dense["parameters"]
    for name in PRUNINGS:
        bit = Bit.load(Path("models/pruned") / name)
        assert not bit.architecture.standardized
        assert metrics(f"prune/{name}")["sparsity"] == pytest.approx(bit.sparsity)
        layers = read_csv(Path(f"plots/prune/{name}/layers.csv"))
        assert [row["layer"] for row in layers[:2]] == [names.ROOT, "resnet/block1/unit01/a/standardized_conv2d"]
        assert sum(int(row["macs"]) for row in layers) == metrics(f"prune/{name}")["macs"]
        zeros = sum(int(row["parameters"]) * float(row["sparsity"]) for row in layers)
        assert zeros == pytest.approx(bit.sparsity * sum(int(row["parameters"]) for row in layers))
        if name != "dense":
            assert list(curve(f"prune/{name}", "loss")) == [1, 2, 3, 4]


def test_dense_model_is_the_finetuned_one_folded():
    dense, finetuned = (Bit.load(Path("models") / name) for name in ("pruned/dense", "finetuned"))
    folded = finetuned.folded()
    assert dense.architecture == folded.architecture
    assert all(np.array_equal(dense.weights[name], value) for name, value in folded.weights.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluate(variant):
    values = metrics(f"evaluate/{variant}")
    assert set(values) == {
        "accuracy", "top5_accuracy", "validation_accuracy", "agreement", "size_bytes", "gzip_bytes", "sparsity",
    }  # fmt: skip
    guesses, truth = predicted(f"evaluate/{variant}")
    assert truth == predicted("finetune")[1]
    assert values["accuracy"] == pytest.approx(share(guesses, truth))
    assert values["agreement"] == pytest.approx(share(guesses, predicted("finetune")[0]))
    content = Path(f"models/tflite/{variant}.tflite").read_bytes()
    assert values["size_bytes"] == len(content)
    assert values["gzip_bytes"] == pytest.approx(len(gzip.compress(content, 9)), abs=64)
    # The logits again, image by image, from pixels that the data set's reader has not seen.
    classifier = runtime.Classifier(Path(f"models/tflite/{variant}.tflite"))
    for split, key, k in (("validation", "validation_accuracy", 1), ("test", "top5_accuracy", 5)):
        images = (Image.open(io.BytesIO(encoded)) for encoded, _ in examples(split))
        pixels = np.stack([np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)) for image in images])
        best = np.argsort(-classifier.logits(pixels), axis=1, kind="stable")[:, :k]
        right = [LABELS.index(label) in row for label, row in zip(actual(split), best, strict=True)]
        assert values[key] == pytest.approx(np.mean(right))


def test_convert_says_what_each_layer_lost():
    layers = [convolution.path for convolution in Bit.load(Path("models/pruned/dense")).convolutions]
    for variant in VARIANTS:
        rows = read_csv(Path(f"plots/convert/{variant}/layers.csv"))
        assert [row["layer"] for row in rows] == layers
        lost = {row["snr_db"] for row in rows} != {""}
        assert lost == (not variant.endswith("-float32"))


def test_convert_writes_what_it_tried_to_choose_bits(copy, capsys):
    entry = "scheme: mixed, calibration_images: 12, max_accuracy_drop: 0.2"
    Path("params.yaml").write_text(PARAMS.replace("scheme: int8, calibration_images: 12", entry))
    made = []
    for _ in range(2):
        convert.main("dense", "int8")
        made.append(contents("models/tflite", "plots/convert"))
    assert made[0] == made[1]
    steps, layers = (read_csv(Path(f"plots/convert/dense-int8/{name}.csv")) for name in ("steps", "layers"))
    final = [row for row in steps if row["chosen"] == "true"][-1]
    assert int(final["size_bytes"]) == Path("models/tflite/dense-int8.tflite").stat().st_size
    taken = {row["layer"]: row["type"] for row in steps[1:] if row["chosen"] == "true"}
    assert {row["layer"]: row["type"] for row in layers if row["type"] != "float32"} == taken != {}
    # What says how far the file may go is what `evaluate` measures too.
    evaluate.main("dense-int8")
    assert metrics("evaluate/dense-int8")["validation_accuracy"] == pytest.approx(float(final["accuracy"]))
    float32 = metrics("evaluate/dense-float32")["validation_accuracy"]
    assert float(steps[0]["accuracy"]) == pytest.approx(float32) and float(final["accuracy"]) >= float32 - 0.2 - 1e-9
    counts = Counter(row["type"] for row in layers)
    said = {f"{number} {type}" for type, number in counts.items()}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Convolutions: ")]
    assert [set(line.removeprefix("Convolutions: ").split(", ")) for line in lines] == [said, said]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("scheme: int8_mixed, calibration_images: 12, keep_float: [nothing/*]", r"^quantization\.int8\.keep_float has"),
    ],
)
def test_convert_refuses_what_can_not_be(entry, told, copy):
    Path("params.yaml").write_text(PARAMS.replace("scheme: int8, calibration_images: 12", entry))
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with pytest.raises(InputError, match=told):
        convert.main("dense", "int8")
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_files_are_of_their_scheme_and_pruning():
    values = {variant: metrics(f"evaluate/{variant}") for variant in VARIANTS}
    assert values["dense-float32"]["agreement"] == 1
    types = {
        variant: runtime.Classifier(Path(f"models/tflite/{variant}.tflite")).input["dtype"] for variant in VARIANTS
    }
    assert types == {variant: np.uint8 if variant == "dense-int8" else np.float32 for variant in VARIANTS}
    size, gzipped = ({v: values[v][key] for v in VARIANTS} for key in ("size_bytes", "gzip_bytes"))
    assert max(size["dense-float16"], size["dense-dynamic"], size["channels-float32"]) < size["dense-float32"]
    assert gzipped["magnitude-float32"] < 0.9 * gzipped["dense-float32"]
    for name in PRUNINGS:
        before, after = metrics(f"prune/{name}"), values[f"{name}-float32"]
        assert after["sparsity"] == pytest.approx(before["sparsity"])
        assert (after["accuracy"], after["top5_accuracy"]) == (before["accuracy"], before["top5_accuracy"])


def test_benchmark():
    values = metrics("benchmark/dense-float32")
    assert set(values) == {
        "latency_ms_p50", "latency_ms_p90", "latency_ms_p99", "baseline_ms_p50", "load_ms", "first_inference_ms",
        "runs", "peak_memory_mb", "delegated", "threads", "cpu",
    }  # fmt: skip
    assert 0 < values["latency_ms_p50"] <= values["latency_ms_p90"] <= values["latency_ms_p99"]
    assert latency.LEAST_TURNS * latency.TURN <= values["runs"] <= 400
    assert min(values["load_ms"], values["first_inference_ms"]) > 0
    # It is the baseline itself, and of one order of magnitude however busy the machine is.
    assert 0.1 < values["latency_ms_p50"] / values["baseline_ms_p50"] < 10
    assert values["peak_memory_mb"] > 0 and values["threads"] == 2 and isinstance(values["cpu"], str) and values["cpu"]
    rows = read_csv(Path("plots/benchmark/dense-float32/layers.csv"))
    assert values["delegated"] == 1 and {row["delegate"] for row in rows} == {"xnnpack"}
    assert sum(float(row["time_share"]) for row in rows) == pytest.approx(1)
    convolutions = [row["layer"] for row in read_csv(Path("plots/prune/dense/layers.csv"))]
    assert sorted(row["layer"] for row in rows if row["type"] == "conv") == sorted(convolutions)


def test_auto_sizes_follow_the_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoded = io.BytesIO()
    Image.new("RGB", (100, 97)).save(encoded, "png")
    dataset.write(dataset.DATASET, ("a",), {"train": [(encoded.getvalue(), 0)]})
    sizes = {"image_size": 480}, {"image_size": 480, "resize": 512}, {}
    recipes = [finetuning_recipe_on_dataset(Finetune(**given)) for given in sizes]
    assert [(recipe.resize, recipe.image_size) for recipe in recipes] == 3 * [(512, 480)]


# Again


def test_finetune_again_gives_equal_bytes(copy):
    folders = "models/finetuned", "metrics", "plots"
    before = contents(*folders)
    shutil.rmtree("models/finetuned")
    finetune.main()
    assert contents(*folders) == before


ONE_CORE = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")


@ONE_CORE
@pytest.mark.parametrize(
    ("stage", "folders"),
    [("finetune", ("models/finetuned", "plots/finetune")), ("prune channels", ("models/pruned", "plots/prune"))],
)
def test_one_core_another_hash_seed_and_other_settings_of_tensorflow_give_equal_bytes(stage, folders, copy):
    before = contents("metrics", *folders)
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "TF_ENABLE_ONEDNN_OPTS": "0",
        "TF_NUM_INTRAOP_THREADS": "1",
    }  # fmt: skip
    one = min(os.sched_getaffinity(0))
    subprocess.run(
        [sys.executable, "-m", *f"stages.{stage}".split()],
        check=True, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, {one}),
    )  # fmt: skip
    assert contents("metrics", *folders) == before


def test_prune_convert_and_evaluate_again_give_equal_bytes(copy):
    before = contents("models", "metrics", "plots")
    prune.main("magnitude")
    convert.main("magnitude", "float32")
    convert.main("dense", "int8")
    evaluate.main("dense-int8")
    assert contents("models", "metrics", "plots") == before


def test_recovery_follows_the_teacher_as_far_as_the_entry_says(copy):
    weights = Path("models/pruned/channels/weights.npz")
    plain = weights.read_bytes()
    recovered = []
    for distillation in (0.0, 0.5, 1.0):
        Path("params.yaml").write_text(PARAMS.replace("keep: 0.5,", f"keep: 0.5, distillation: {distillation},"))
        prune.main("channels")
        recovered.append(weights.read_bytes())
    assert recovered[0] == plain
    assert len(set(recovered)) == 3


def test_finetuning_that_is_killed_and_run_again_gives_what_an_unbroken_one_gives(copy):
    before = contents("models", "metrics", "plots")
    # Slow enough to be killed in the middle, and with a checkpoint every step.
    slow = """
import time
from functools import partial
from bitlite.training import loop
from stages import finetune
batches = loop.batches
loop.batches = lambda *args: (time.sleep(0.4) or batch for batch in batches(*args))
finetune.Checkpoint = partial(finetune.Checkpoint, seconds=0)
finetune.main()
"""
    process = subprocess.Popen([sys.executable, "-c", slow], env=os.environ | {"PYTHONPATH": str(ROOT)})
    while not any(interrupted().glob("*/*.npz")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    finetune.main()
    assert contents("models", "metrics", "plots") == before


@pytest.mark.parametrize("stage", [[finetune.main], [prune.main, "magnitude"]], ids=["finetune", "prune"])
def test_a_finished_training_whose_stage_dies_before_all_is_written_is_not_done_again(stage, copy, monkeypatch):
    main, *arguments = stage
    before = contents("models", "metrics", "plots")

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("bitlite.workflow.metrics.write", full)
        with pytest.raises(OSError):
            main(*arguments)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", lambda *args: (None, training_step(*args)[1]))
        main(*arguments)
    assert contents("models", "metrics", "plots") == before


def test_plots_of_a_former_model_go(copy):
    unpruned = contents("plots/prune/dense").values()
    entry = "  magnitude: {method: magnitude, sparsity: 0.6, steps: 4, batch_size: 12, learning_rate: 0.01}"
    Path("params.yaml").write_text(PARAMS.replace(entry, "  magnitude: {method: none}"))
    prune.main("magnitude")
    assert list(contents("plots/prune/magnitude").values()) == list(unpruned)
    Path("plots/convert/dense-int8/steps.csv").write_text("of scheme mixed")
    convert.main("dense", "int8")
    assert set(contents("plots/convert/dense-int8")) == {Path("plots/convert/dense-int8/layers.csv")}


def test_recovery_that_is_killed_and_run_again_gives_what_an_unbroken_one_gives(copy):
    shared = "steps: 4, batch_size: 12, learning_rate: 0.01, distillation: 1.0, mixup: 0.5"
    parts = f"[{{method: channels, keep: 0.5, rounds: 2, {shared}}}, {{method: magnitude, sparsity: 0.6, {shared}}}]"
    Path("params.yaml").write_text(
        PARAMS.replace("quantization:", f"  both: {{method: combine, parts: {parts}}}\nquantization:")
    )
    prune.main("both")
    before = contents("models", "metrics", "plots")
    for folder in (Path("models/pruned/both"), Path("plots/prune/both")):
        shutil.rmtree(folder)
    # Slow enough to be killed in the middle of each training, and with a checkpoint every step.
    slow = """
import time
from bitlite.training import loop
from bitlite.training.checkpoint import Checkpoint
from stages import prune
batches = loop.batches
loop.batches = lambda *args: (time.sleep(1) or batch for batch in batches(*args))
Checkpoint.__init__.__defaults__ = (0,)
prune.main("both")
"""
    for trainings in (1, 2, 3):
        process = subprocess.Popen([sys.executable, "-c", slow], env=os.environ | {"PYTHONPATH": str(ROOT)})
        while len(list(interrupted().glob("*/*.npz"))) < trainings:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()
    prune.main("both")
    assert contents("models", "metrics", "plots") == before


def test_repository_without_a_commit_says_what_to_do(copy):
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    with pytest.raises(InputError, match="git commit, then run again"), logged(Path("plots/finetune")):
        pass


def test_finetune_without_steps_attaches_the_head(copy):
    Path("params.yaml").write_text(PARAMS.replace("steps: 12", "steps: 0"))
    finetune.main()
    backbone, finetuned = (Bit.load(Path("models") / name) for name in ("backbone", "finetuned"))
    assert all(np.array_equal(finetuned.weights[name], value) for name, value in backbone.weights.items())
    assert not finetuned.weights[f"{names.HEAD}/kernel"].any()
    assert not list(Path("plots/finetune").rglob("*.tsv"))


def test_finetune_trains_the_part_asked_for(copy):
    Path("params.yaml").write_text(PARAMS.replace("steps: 12", "steps: 12, trainable: head"))
    finetune.main()
    backbone, finetuned = (Bit.load(Path("models") / name) for name in ("backbone", "finetuned"))
    assert all(np.array_equal(finetuned.weights[name], value) for name, value in backbone.weights.items())
    assert finetuned.weights[f"{names.HEAD}/kernel"].any()


@pytest.mark.parametrize(
    "stage",
    [
        [finetune.main], [prune.main, "magnitude"], [convert.main, "dense", "int8"], [evaluate.main, "dense-int8"],
        [benchmark.main, "dense-int8"],
    ],
    ids=lambda stage: stage[0].__module__,
)  # fmt: skip
def test_bad_params_stop_a_stage_before_it_writes(stage, copy):
    Path("params.yaml").write_text(PARAMS.replace("keep: 0.5", "keep: 1.5"))
    main, *arguments = stage
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with pytest.raises(InputError, match=r"^params\.yaml: pruning\.channels\.keep is 1\.5: "):
        main(*arguments)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


FILE, PREDICTIONS = "models/tflite/dense-int8.tflite", "plots/finetune/predictions.csv"
SHARD = "data/dataset/dataset-test.tfrecord-00000-of-00001"


@pytest.mark.parametrize(
    ("stage", "path", "damage", "told"),
    [
        *(
            ((main, "dense-int8"), FILE, damage, f"{FILE} is ")
            for main in (evaluate.main, benchmark.main)
            for damage in (lambda c: None, lambda c: b"", lambda c: c[: len(c) // 2], lambda c: b"x" * len(c))
        ),
        ((evaluate.main, "dense-int8"), PREDICTIONS, lambda c: None, f"{PREDICTIONS} is missing"),
        ((evaluate.main, "dense-int8"), PREDICTIONS, lambda c: b"", f"{PREDICTIONS} has no column"),
        ((evaluate.main, "dense-int8"), PREDICTIONS, lambda c: c[: len(c) // 2], f"{PREDICTIONS} "),
        (
            (evaluate.main, "dense-int8"), PREDICTIONS, lambda c: c.rsplit(b"\n", 2)[0] + b"\n",
            f"{PREDICTIONS} is of other test images",
        ),
        ((evaluate.main, "dense-int8"), SHARD, lambda c: None, f"{SHARD} is damaged"),
        ((evaluate.main, "dense-int8"), SHARD, lambda c: c[:-9] + b"x" + c[-8:], f"{SHARD}, record 17 can't be read"),
        ((prune.main, "dense"), "metrics/finetune.json", lambda c: b"{", "metrics/finetune.json holds no metrics"),
        ((prune.main, "dense"), "models/finetuned/architecture.json", lambda c: b"{", "models/finetuned holds no BiT"),
        ((convert.main, "dense", "int8"), "models/pruned/dense/weights.npz", lambda c: c[:99], "models/pruned/dense h"),
    ],
)  # fmt: skip
def test_damaged_input_is_told_in_one_line_and_nothing_is_written(copy, stage, path, damage, told):
    content = damage(Path(path).read_bytes())
    if content is None:
        Path(path).unlink()
    else:
        Path(path).write_bytes(content)
    main, *arguments = stage
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as error:
        main(*arguments)
    assert str(error.value).startswith(told) and "dvc repro" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before


def test_keras_is_the_old_one_whatever_the_environment_says():
    code = "import bitlite, tensorflow as tf; print(tf.keras.layers.Layer.__module__)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_USE_LEGACY_KERAS": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("tf_keras."), done.stderr


def test_running_a_file_needs_no_tensorflow(copy):
    code = (
        "import sys; from stages import benchmark, evaluate, prune\n"
        "prune.main('dense'); evaluate.main('dense-int8'); benchmark.main('dense-int8')\n"
        "sys.exit(sorted({'tensorflow', 'tf_keras', 'keras'} & set(sys.modules)) or None)"
    )
    before = contents("models", "metrics/evaluate", "metrics/prune", "plots/evaluate", "plots/prune")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents("models", "metrics/evaluate", "metrics/prune", "plots/evaluate", "plots/prune") == before
    assert metrics("benchmark/dense-int8").keys() == metrics("benchmark/dense-float32").keys()
