"""Measure what pruning brings: size, speed and accuracy of each method, on the fine-tuned model of this checkout.

    python -m benchmarks.pruning [STEPS]
    python -m benchmarks.pruning distillation [STEPS [SEEDS]]
    python -m benchmarks.pruning norm_free [STEPS [SEEDS]]
    python -m benchmarks.pruning quantize [STEPS [SEEDS]]
    python -m benchmarks.pruning curve [EPOCHS ...]
    python -m benchmarks.pruning r50x1

Run after `dvc repro`, on whatever data set that was for. Recovers each for STEPS (default auto) steps and prints
accuracy on test at once and recovered, that on validation, which choices are made by, and multiply-adds as a share of
the dense model's; then latency, measured in turns in one run, zeros in the files and their size once compressed.
distillation: recovery with the fine-tuned model as teacher against plain training of as many steps, on SEEDS (4) seeds.
norm_free: what norm_free loses against the dense model, all norms and the inner ones, on SEEDS (2) seeds.
quantize: accuracy of quantized files and the share of test images that they answer as the fine-tuned model does,
without the method quantize and with it, at once and trained, on SEEDS (1) seeds.
curve: points lost against EPOCHS (2 5 10 20) of recovery by the teacher alone, its units too where the name says hints,
from inner channels cut or from those of all sites, on 2 seeds. It may take hours, and goes on after an interruption:
finished runs are in models/.curve, and a started one has its checkpoint there.
r50x1: seconds and memory that pruning a BiT-R50x1 of random weights at 224 px takes, and whether it converts in each
scheme.
"""

import gzip
import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from bitlite.bit import network
from bitlite.bit.names import HEAD
from bitlite.bit.shapes import published
from bitlite.bit.weights import Bit, untrained
from bitlite.images import dataset
from bitlite.litert import latency, runtime
from bitlite.profiling.machine import cpu
from bitlite.pruning.importance import sampled
from bitlite.pruning.methods import prune
from bitlite.pruning.recovery import recover
from bitlite.tflite import calibration, conversion
from bitlite.training.batches import Images
from bitlite.training.checkpoint import Checkpoint
from bitlite.training.inference import predict
from bitlite.training.loop import Run
from bitlite.training.recipe import Recipe, recovery_recipe
from bitlite.workflow.files import write_json
from bitlite.workflow.params import (
    Calibrated,
    Channels,
    Int4,
    Int8Mixed,
    Integers,
    Magnitude,
    NormFree,
    Quantization,
    Quantize,
    Recovery,
    Uncalibrated,
    load,
)
from bitlite.workflow.paths import FINETUNED
from bitlite.workflow.scores import accuracy

QUANTIZATIONS = (
    *(Uncalibrated(scheme=name) for name in ("float32", "float16", "dynamic")),
    Int4(scheme="int4"),
    *(Integers(scheme=name) for name in ("int8", "int16x8")),
    Int8Mixed(scheme="int8_mixed"),
)
PLAIN, TAUGHT = {"distillation": 0.0}, {"distillation": 0.5, "temperature": 2.0}
# As in params.yaml.
FAST = {"method": "channels", "learning_rate": 0.01, **TAUGHT}
# Contrast of dull images, as a share of their own.
DULL = 0.25
NORM_FREE = {"method": "norm_free", "batch_size": 64, "distillation": 0.9, "temperature": 2.0}
QUANTIZE = {"method": "quantize", "batch_size": 128, "mixup": 0.0}
INT4 = {"weights": 4, "activations": "float", "learning_rate": 0.001}
KEEP, MAGNITUDE = Channels(keep=0.5, **FAST), Magnitude(method="magnitude", sparsity=0.8)
ALONE = {"distillation": 1.0, "temperature": 4.0, "batch_size": 128, "padding": 2}
CURVES = {
    "keep 0.5": KEEP.model_copy(update={**ALONE, "learning_rate": 0.03}),
    "keep 0.5, hints": KEEP.model_copy(update={**ALONE, "learning_rate": 0.03, "hints": 40.0}),
    # As many as keep 0.5 leaves of bit-tiny.
    "target_macs 0.463, all": Channels(method="channels", target_macs=0.463, scope="all", learning_rate=0.03, **ALONE),
    "target_macs 0.25": Channels(method="channels", target_macs=0.25, learning_rate=0.03, **ALONE),
    "target_macs 0.25, all": Channels(method="channels", target_macs=0.25, scope="all", learning_rate=0.03, **ALONE),
    "magnitude 0.8": MAGNITUDE.model_copy(update={**ALONE, "learning_rate": 0.01}),
}
# Where their finished runs are, and below it the unfinished ones.
CURVE, CURVE_SEEDS = Path("models/.curve"), (0, 1)


class Bench:
    """The fine-tuned model of this checkout, and the means to prune and to measure it."""

    def __init__(self, steps: str):
        params = load()
        self.steps, self.finetuned = "auto" if steps == "auto" else int(steps), Bit.load(FINETUNED)
        self.dense = self.finetuned.folded()
        self.run = Run.on_dataset(params.finetune, params.seed)
        self.test = Images(*dataset.read("test", self.dense.architecture.image_size))

    def pruned(self, entry: Recovery, seed: int = 0) -> tuple[Bit, Bit, int]:
        """The dense model pruned at once, then recovered, and in how many steps."""
        entry = entry.model_copy(update={"steps": self.steps})
        steps = recovery_recipe(entry, self.run.recipe, examples=len(self.run.train.labels)).steps
        return *self.recovered(entry, seed), steps

    def recovered(self, entry: Recovery, seed: int, checkpoint: Checkpoint | None = None) -> tuple[Bit, Bit]:
        """The dense model pruned at once, then recovered, as `entry` says."""
        run = replace(self.run, seed=seed)
        at_once = prune(self.dense, entry, partial(sampled, run, self.dense))
        return at_once, recover(at_once, self.finetuned, entry, run, checkpoint=checkpoint)

    def accuracies(self, bit: Bit) -> tuple[float, float]:
        """On test and on validation."""
        model = network.build(bit)
        return tuple(
            accuracy(predict(model, images.pixels), images.labels) for images in (self.test, self.run.validation)
        )


def main(steps: str = "auto") -> None:
    bench, models = Bench(steps), {}

    def show(name: str, entry: Channels | Magnitude) -> None:
        at_once, models[name], taken = bench.pruned(entry)
        (before, _), (test, validation) = bench.accuracies(at_once), bench.accuracies(models[name])
        macs = models[name].macs / bench.dense.macs
        print(f"{name:36} {before:8.4f} {test:9.4f} {validation:10.4f} {macs:6.3f} {taken:6}", flush=True)

    print(f"{'':36} {'at once':>8} {'recovered':>9} {'validation':>10} {'macs':>6} {'steps':>6}", flush=True)
    test, validation = bench.accuracies(bench.dense)
    print(f"{'dense':36} {test:8.4f} {test:9.4f} {validation:10.4f} {1:6.3f}", flush=True)
    for importance in ("taylor", "norm"):
        show(f"keep 0.5, {importance}", KEEP.model_copy(update={"importance": importance}))
        share = models[f"keep 0.5, {importance}"].macs / bench.dense.macs
        show(f"as many macs, shares by {importance}", Channels(target_macs=share, importance=importance, **FAST))
    show("magnitude 0.8", MAGNITUDE)
    show("magnitude 0.8 of each kernel", MAGNITUDE.model_copy(update={"scope": "kernel"}))
    files(bench.dense, models["keep 0.5, taylor"], models["magnitude 0.8"], bench.run.train.pixels[:64])


def distillation(steps: str = "auto", seeds: str = "4") -> None:
    """Print what recovery with the fine-tuned model as teacher gains over plain training, seed by seed."""
    bench = Bench(steps)
    print(f"{'':16} {'seed':>4} {'':10} {'plain':>8} {'distilled':>9} {'gain':>8}", flush=True)
    for name, entry in (("keep 0.5, taylor", KEEP), ("magnitude 0.8", MAGNITUDE)):
        gains = []
        for seed in range(int(seeds)):
            plain, distilled = (
                bench.accuracies(bench.pruned(entry.model_copy(update=teaching), seed)[1])
                for teaching in (PLAIN, TAUGHT)
            )
            gains.append(np.subtract(distilled, plain))
            for split, *found in zip(("test", "validation"), plain, distilled, gains[-1], strict=True):
                print(f"{name:16} {seed:4} {split:10} {found[0]:8.4f} {found[1]:9.4f} {found[2]:+8.4f}", flush=True)
        for split, gain in zip(("test", "validation"), np.mean(gains, axis=0), strict=True):
            print(f"{name:16} mean {split:10} {'':8} {'':9} {gain:+8.4f}", flush=True)


def norm_free(steps: str = "auto", seeds: str = "2") -> None:
    """Print what freezing norms loses of the dense model's accuracy, seed by seed, and how it bears dull images."""
    bench = Bench(steps)
    dull = (127.5 + (bench.test.pixels[:].astype(np.float32) - 127.5) * DULL).round().astype(np.uint8)

    def accuracies(bit: Bit) -> np.ndarray:
        model = network.build(bit)
        return np.array([*bench.accuracies(bit), accuracy(predict(model, dull), bench.test.labels)])

    print(f"{'':24} {'test':>8} {'validation':>10} {f'test, {DULL:g} of the contrast':>26}", flush=True)

    def show(name: str, values: np.ndarray) -> None:
        print(f"{name:24} {values[0]:8.4f} {values[1]:10.4f} {values[2]:26.4f}", flush=True)

    show("dense", dense := accuracies(bench.dense))
    for norms in ("all", "inner"):
        losses = []
        for seed in range(int(seeds)):
            at_once, recovered, _ = bench.pruned(NormFree(norms=norms, **NORM_FREE), seed)
            if not seed:
                show(f"{norms} frozen at once", accuracies(at_once))
            show(f"{norms}, recovered, seed {seed}", found := accuracies(recovered))
            losses.append(dense - found)
        show(f"{norms}, lost, mean", np.mean(losses, axis=0))


def quantize(steps: str = "auto", seeds: str = "1") -> None:
    """Print accuracy and agreement of quantized files without training for them and with it, seed by seed."""
    bench = Bench(steps)
    answers = predict(network.build(bench.dense), bench.test.pixels).argmax(axis=1)
    train, labels = dataset.read("train", bench.dense.architecture.image_size)
    print(f"{'':10} {'':18} {'accuracy':>8} {'agreement':>9}", flush=True)

    def show(name: str, scheme: str, bit: Bit) -> None:
        entry = next(each for each in QUANTIZATIONS if each.scheme == scheme)
        images = train[calibration.drawn(labels, entry)] if isinstance(entry, Calibrated) else None
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.tflite"
            path.write_bytes(converted(bit, entry, images))
            logits = runtime.logits(path, bench.test.pixels)
        agreement = np.mean(logits.argmax(axis=1) == answers)
        print(f"{scheme:10} {name:18} {accuracy(logits, bench.test.labels):8.4f} {agreement:9.4f}", flush=True)

    for scheme in ("float32", "int8", "int8_mixed", "dynamic", "int4"):
        show("", scheme, bench.dense)
    for seed in range(int(seeds)):
        for schemes, keys in ((("int8", "int8_mixed", "dynamic"), {}), (("int4",), INT4)):
            *models, taken = bench.pruned(Quantize(**QUANTIZE | keys), seed)
            for steps_done, bit in zip((0, taken), models, strict=True):
                for scheme in schemes:
                    show(f"{steps_done} steps, seed {seed}", scheme, bit)


def curve(*epochs: str) -> None:
    """Print the points of accuracy that recovery loses against the dense model, by epochs, seed by seed."""
    bench, images = Bench("auto"), dataset.digest()
    dense, weights = bench.accuracies(bench.dense), (FINETUNED / "weights.npz").read_bytes()
    print(f"{'':23} {'epochs':>6} {'seed':>4} {'test':>8} {'lost':>6} {'validation':>10} {'lost':>6}", flush=True)

    def show(name: str, count: str, seed: str | int, found: np.ndarray) -> None:
        (test, validation), lost = found, 100 * np.subtract(dense, found)
        print(
            f"{name:23} {count:>6} {seed:>4} {test:8.4f} {lost[0]:6.2f} {validation:10.4f} {lost[1]:6.2f}", flush=True
        )

    show("dense", "", "", dense)
    for count in epochs or ("2", "5", "10", "20"):
        for name, entry in CURVES.items():
            steps = round(float(count) * len(bench.run.train.labels) / entry.batch_size)
            entry, found = entry.model_copy(update={"steps": steps}), []
            for seed in CURVE_SEEDS:
                key = hashlib.sha256(repr((images, bench.run.recipe, entry, seed)).encode() + weights).hexdigest()
                file = CURVE / f"{key[:16]}.json"
                if not file.exists():
                    with Checkpoint(CURVE / "unfinished", key) as checkpoint:
                        test, validation = bench.accuracies(bench.recovered(entry, seed, checkpoint)[1])
                        write_json(file, {"test": test, "validation": validation})
                scores = json.loads(file.read_text())
                found.append((scores["test"], scores["validation"]))
                show(name, count, seed, found[-1])
            show(name, count, "mean", np.mean(found, axis=0))


def files(dense: Bit, channels: Bit, magnitude: Bit, calibration: np.ndarray) -> None:
    """Print latency, zeros and compressed size of the pruned models' files."""
    height, width = dense.architecture.image_size
    with tempfile.TemporaryDirectory() as scratch:
        paths = {}
        for entry in QUANTIZATIONS:
            for name, bit in (("dense", dense), ("channels", channels), ("magnitude", magnitude)):
                path = paths[name, entry.scheme] = Path(scratch) / f"{name}-{entry.scheme}.tflite"
                path.write_bytes(converted(bit, entry, calibration[:, :height, :width]))
        for scheme in ("float32", "dynamic"):
            share = latency.ratio(paths["channels", scheme], paths["dense", scheme])
            print(f"latency of keep 0.5, {scheme}: {share:.2f} of dense on {cpu()}")
        for entry in QUANTIZATIONS:
            found = runtime.sparsity(paths["magnitude", entry.scheme])
            print(f"zeros in magnitude-{entry.scheme}: {found:.4f} of all kernels")
        sizes = [len(gzip.compress(paths[name, "int8"].read_bytes())) for name in ("magnitude", "dense")]
        print(f"gzip of magnitude-int8: {sizes[0] / sizes[1]:.3f} of dense-int8's")


def r50x1() -> None:
    random = np.random.default_rng(0)
    side, labels = 224, tuple(f"class{index}" for index in range(10))
    bare = untrained("r50x1", published("r50x1"), seed=0)
    bit = bare.with_head(labels, (side, side)).folded()
    # A head of zeros, as a new one is, gives no gradients.
    head = f"{HEAD}/kernel"
    bit = bit.with_weights(bit.weights | {head: random.normal(size=bit.weights[head].shape).astype(np.float32)})
    images = Images(random.integers(256, size=(64, side, side, 3), dtype=np.uint8), np.arange(64) % len(labels))
    uncropped = Recipe(1, 1, learning_rate=1, resize=side, image_size=side, warmup=0, decays=())
    sample = partial(sampled, Run(uncropped, images, images, seed=0), bit)
    entries = {
        f"{key} 0.5, {importance}": Channels(method="channels", importance=importance, **{key: 0.5})
        for key in ("keep", "target_macs")
        for importance in ("norm", "taylor")
    }
    entries["norm_free"] = NormFree(method="norm_free")
    print(f"{'':26} {'seconds':>7} {'GB':>5} {'macs':>6}", flush=True)
    for name, entry in entries.items():
        # A process of its own, for a peak of its own.
        if child := os.fork():
            os.waitpid(child, 0)
            continue
        start = time.perf_counter()
        smaller = prune(bit, entry, sample)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        shares = f"{time.perf_counter() - start:7.1f} {peak:5.2f} {smaller.macs / bit.macs:6.3f}"
        print(f"{name:26} {shares}", flush=True)
        os._exit(0)
    for name in ("keep 0.5, norm", "norm_free"):
        smaller = prune(bit, entries[name], sample)
        for entry in QUANTIZATIONS:
            size = len(converted(smaller, entry, images.pixels[:4])) / 1e6
            print(f"{name:26} {entry.scheme:10} {size:6.1f} MB", flush=True)


def converted(bit: Bit, entry: Quantization, calibration: np.ndarray) -> bytes:
    """The .tflite file of `bit`, with images uint8 [images, height, width, 3] for the schemes that calibrate."""
    return conversion.convert(bit, entry, calibration if isinstance(entry, Calibrated) else None)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:] or ["auto"]
    benches = {"r50x1": r50x1, "distillation": distillation, "norm_free": norm_free}
    benches |= {"quantize": quantize, "curve": curve}
    benches.get(what, partial(main, what))(*arguments)
