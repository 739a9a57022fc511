"""Measure what pruning brings: size, speed and accuracy of each method, on the fine-tuned model of this checkout.

    python benchmarks/pruning.py [STEPS]

Run after `dvc repro`, on whatever data set that was for. Recovers each for STEPS (default 150) steps and prints
accuracy on test before and after, multiply-adds and, measured in turns in one run, latency as ratios to the dense
model; then the same pruning recovered with and without distillation, and the share of zeros in the files.
"""

import gzip
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from stages import finetune, scores
from stages.artifacts import FINETUNED
from stages.bit import model, network, pruning, training
from stages.images import dataset
from stages.params import Channels, Int8, Magnitude, Scheme, load
from stages.prune import recovery
from stages.tflite import conversion, runtime

FAST = {"batch_size": 32, "learning_rate": 0.01, "distillation": 0.5, "temperature": 2.0}
ROUNDS = 15


def main(steps: str = "150") -> None:
    params = load()
    original = model.load(FINETUNED)
    dense = model.fold(original)
    recipe = finetune.recipe_of(params.finetune)
    train, validation = finetune.images_of(recipe, params.finetune.cache_mb)
    pixels, labels = dataset.read("test", dense.architecture.image_size)
    sample = replace(recipe, steps=16, batch_size=32, mixup=0.0)

    def batches():
        return training.batches(train, sample, len(dense.architecture.labels), seed=0)

    fit = recovery(original, train, validation, params, log=lambda step, values: None)

    def accuracy(bit: model.Bit) -> float:
        return scores.accuracy(training.predict(network.build(bit), pixels), labels)

    common = FAST | {"steps": int(steps)}
    keep = Channels(method="channels", keep=0.5, **common)
    equal = pruning.prune(dense, keep, batches, None).macs / dense.macs
    entries = {
        "keep 0.5, norm": keep,
        "keep 0.5, taylor": keep.model_copy(update={"importance": "taylor"}),
        "as many macs, shares by norm": Channels(method="channels", target_macs=equal, **common),
        "as many macs, shares by taylor": Channels(method="channels", target_macs=equal, importance="taylor", **common),
        "keep 0.5, norm, no distillation": keep.model_copy(update={"distillation": 0.0}),
        "magnitude 0.8": Magnitude(method="magnitude", sparsity=0.8, **common | {"learning_rate": 0.003}),
        "magnitude 0.8, no distillation": Magnitude(
            method="magnitude", sparsity=0.8, **common | {"learning_rate": 0.003, "distillation": 0.0}
        ),
    }
    print(f"{'':32} {'at once':>8} {'recovered':>9} {'macs':>6}", flush=True)
    print(f"{'dense':32} {accuracy(dense):8.4f} {accuracy(dense):9.4f} {1:6.3f}", flush=True)
    models = {}
    for name, how in entries.items():
        before, models[name] = (
            accuracy(pruning.prune(dense, how, batches, None)),
            pruning.prune(dense, how, batches, fit),
        )
        share = models[name].macs / dense.macs
        print(f"{name:32} {before:8.4f} {accuracy(models[name]):9.4f} {share:6.3f}", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        calibration = train.pixels[:64]
        calibration = calibration[:, : pixels.shape[1], : pixels.shape[2]]
        files = {}
        for scheme in (*(Scheme(scheme=s) for s in ("float32", "float16", "dynamic")), Int8(scheme="int8")):
            for name, bit in (
                ("dense", dense),
                ("channels", models["keep 0.5, norm"]),
                ("magnitude", models["magnitude 0.8"]),
            ):
                path = files[name, scheme.scheme] = Path(scratch) / f"{name}-{scheme.scheme}.tflite"
                path.write_bytes(conversion.convert(bit, scheme, calibration))
        for scheme in ("float32", "dynamic"):
            share = ratio(files["channels", scheme], files["dense", scheme])
            print(f"latency of keep 0.5, {scheme}: {share:.2f} of dense")
        for scheme in ("float32", "float16", "dynamic", "int8"):
            print(f"zeros in magnitude-{scheme}: {runtime.sparsity(files['magnitude', scheme]):.4f} of all kernels")
        sizes = [len(gzip.compress(files[name, "int8"].read_bytes())) for name in ("magnitude", "dense")]
        print(f"gzip of magnitude-int8: {sizes[0] / sizes[1]:.3f} of dense-int8's")


def ratio(path: Path, other: Path) -> float:
    """Median latency of one file as a share of the other's, run in turns."""
    classifiers = [runtime.Classifier(each) for each in (path, other)]
    image = np.random.default_rng(0).integers(256, size=(*classifiers[0].image_size, 3), dtype=np.uint8)
    times = [[], []]
    for _ in range(ROUNDS):
        for classifier, found in zip(classifiers, times, strict=True):
            found.append(np.median(classifier.latencies(image, warmup_runs=5, runs=50)))
    return float(np.median(times[0]) / np.median(times[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
