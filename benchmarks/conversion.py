"""Measure the conversion: speed against the usual way and against the floor, and what each scheme gets right.

    python -m benchmarks.conversion r50x1 [THREADS ...]      default: on 1 thread, then on 2
    python -m benchmarks.conversion schemes [THREADS ...]    default: on 1 thread
    python -m benchmarks.conversion harm
    python -m benchmarks.conversion winograd [THREADS ...]   default: on 1 thread
    python -m benchmarks.conversion dense [THREADS ...]      default: on 1 thread
    python -m benchmarks.conversion mixed [DROP ...]         default: 0.005 and 0.01

r50x1: files of the same random weights at 224 px, run in turns on one image at a time, seconds and memory to convert:
    usual   a SavedModel as Google publishes it (benchmarks/hub.py), for images of this size, through
            TFLiteConverter.from_saved_model
    ours    what `convert` makes of them
    floor   ours with the statistics of every GroupNorm frozen, so that a norm is what BatchNorm is on a device: nothing
    and ours with `winograd: true`, against the same
schemes: the fine-tuned model of this checkout in every scheme: accuracy on test, agreement with float32, size, latency.
harm: the fine-tuned model of this checkout by each way to choose ranges and to round: seconds to convert, accuracy on
    test, agreement with float32, and the mean divergence (Kullback-Leibler, in nats) of the probabilities.
winograd: single 3x3 convolutions in float32: how many times as fast they are by Winograd's algorithm.
dense: single 3x3 convolutions: how many times as fast as by int8 they are as dense layers by int4.
mixed: the fine-tuned model of this checkout by scheme mixed at these drops of accuracy on validation, for size and for
    latency, against other schemes: seconds to choose, types, accuracy on test, agreement with float32, size, latency.

Of each round the fastest run counts, which noise from other processes seldom reaches; ratios are of medians of these.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from bitlite.bit.shapes import published
from bitlite.bit.weights import Bit, untrained
from bitlite.images import dataset
from bitlite.images.pixels import Pixels
from bitlite.litert import runtime
from bitlite.profiling.machine import cpu
from bitlite.tflite import calibration, conversion, mixed, quantizer, schemes
from bitlite.tflite.dense import by_dense
from bitlite.tflite.graph import Graph, Rewrite, Tensor, constant, rewritten, to_file
from bitlite.tflite.lowering import convolution
from bitlite.tflite.winograd import by_winograd
from bitlite.workflow import scores
from bitlite.workflow.params import Calibrated, Quantization
from bitlite.workflow.paths import FINETUNED

SIZE = (224, 224)
# The usual way knows these.
USUAL = ("float32", "dynamic", "int8")
WINOGRAD = {f"{scheme}, winograd": scheme for scheme in ("float32", "float16", "dynamic")}
# LiteRT has no fast code for it on a CPU.
SLOW = "int16x8"
# It needs validation images.
CHOSEN = "mixed"
ROUNDS, RUNS = 15, 3
# Of single convolutions, in and out.
CHANNELS, SIDES = (32, 48, 64, 96, 128, 256), (4, 8, 14, 28, 56)


def main(what: str, *numbers: str) -> None:
    measure, default = {
        "r50x1": (speeds, (1, 2)),
        "schemes": (by_scheme, (1,)),
        "harm": (by_means, ()),
        "winograd": (partial(convolutions, by_winograd, bytes), (1,)),
        "dense": (partial(convolutions, by_dense, quantizer.dynamic), (1,)),
        "mixed": (chosen, (0.005, 0.01)),
    }[what]
    print(cpu(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), [float(each) if what == "mixed" else int(each) for each in numbers] or default)


def speeds(scratch: Path, threads: Sequence[int]) -> None:
    """Print how long R50x1 takes to convert and, against the usual way and the floor, to run."""
    bit = r50x1()
    images = np.random.default_rng(1).integers(256, size=(256, *SIZE, 3), dtype=np.uint8)
    files = {}
    for name, each in entries().items():
        start = time.perf_counter()
        content = files[name, "ours"] = conversion.convert(bit, each, images)
        taken, memory = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"{name:18}{len(content) / 1e6:6.1f} MB, converted in {taken:.0f} s; "
            f"at most {memory:.1f} GB of memory so far",
            flush=True,
        )
    for scheme in USUAL:
        files[scheme, "usual"] = usual(bit, scheme, images[:8])
        files[scheme, "floor"] = floor(bit, scheme, images[:8])
    del files[SLOW, "ours"]  # minutes for a few images
    paths = written(files, scratch)
    for count in threads:
        times = in_turns(paths, count)
        head(count, "usual ms", "ours ms", "floor ms", "usual/ours", "ours/floor", "to dynamic")
        for name in entries():
            ours = times.get((name, "ours"))
            usual_, floor_ = (times.get((WINOGRAD.get(name, name), way)) for way in ("usual", "floor"))
            print(
                f"{name:18}{least(usual_)}{least(ours)}{least(floor_)}{ratio(usual_, ours)}{ratio(ours, floor_)}"
                f"{ratio(ours, times['dynamic', 'ours'])}",
                flush=True,
            )


def by_scheme(scratch: Path, threads: Sequence[int]) -> None:
    """Print what each scheme makes of the fine-tuned model of this checkout."""
    bit, train, test = fine_tuned()
    files = {name: conversion.convert(bit, each, drawn(each, *train)) for name, each in entries().items()}
    scored(files, *test, scratch, threads)


def chosen(scratch: Path, drops: Sequence[float]) -> None:
    """Print what scheme mixed makes of it for each objective at each of `drops`, and some schemes beside it."""
    bit, train, test = fine_tuned()
    validation = dataset.read("validation", bit.architecture.image_size)
    others = {name: entry(name) for name in ("float32", "dynamic", "int8_mixed", "int4")}
    files = {name: conversion.convert(bit, each, drawn(each, *train)) for name, each in others.items()}
    for objective in ("size", "latency"):
        for drop in drops:
            start, each = time.perf_counter(), entry("mixed", objective=objective, max_accuracy_drop=drop)
            source = conversion.source(bit, each, drawn(each, *train))
            types, _ = mixed.choose(source, *validation)
            files[f"{objective}, {drop:g}"] = conversion.file(source, types)
            counts = Counter({"float32": len(bit.paths) - len(types)}) + Counter(types.values())
            kinds = ", ".join(f"{number} {type}" for type, number in counts.items())
            print(f"{objective}, {drop:g}: {kinds}, chosen in {time.perf_counter() - start:.0f} s", flush=True)
    scored(files, *test, scratch, (1,))


def scored(files: dict[str, bytes], test: Pixels, labels: np.ndarray, scratch: Path, threads: Sequence[int]) -> None:
    """Print what files, of which float32 is the first, get right on `test`, how large they are and how fast."""
    paths = written(files, scratch)
    print(" " * 18 + "".join(f"{column:>12}" for column in ("images", "accuracy", "agreement", "bytes")))
    for name, path in paths.items():
        count = min(len(labels), 1000) if name == SLOW else len(labels)
        logits = runtime.logits(path, test[:count])
        if name == "float32":
            expected = logits.argmax(1)
        agreement = np.mean(logits.argmax(1) == expected[:count])
        accuracy = scores.accuracy(logits, labels[:count])
        print(f"{name:18}{count:12}{accuracy:12.4f}{agreement:12.4f}{path.stat().st_size:12}", flush=True)
    for count in threads:
        times = in_turns(paths, count)
        head(count, "ms", "to dynamic")
        for name in files:
            print(f"{name:18}{least(times[name])}{ratio(times[name], times['dynamic'])}", flush=True)


def by_means(scratch: Path, threads: Sequence[int]) -> None:
    """Print what the fine-tuned model of this checkout loses by each scheme of integers, by each way to quantize."""
    bit, train, (test, labels) = fine_tuned()
    roundings = [{"rounding": each} for each in ("nearest", "compensated")]
    both = [{"ranges": each} | rounding for each in ("min_max", "mse") for rounding in roundings]
    means = {"float32": [{}], "dynamic": [{}], "int4": roundings, "int8": both, "int8_mixed": both}
    print(" " * 32 + "".join(f"{column:>12}" for column in ("seconds", "accuracy", "agreement", "divergence")))
    for scheme, choices in means.items():
        for choice in choices:
            each = entry(scheme, **choice)
            images, start = drawn(each, *train), time.perf_counter()
            content = conversion.convert(bit, each, images)
            taken = time.perf_counter() - start
            (path,) = written({scheme: content}, scratch).values()
            logits = runtime.logits(path, test)
            if scheme == "float32":
                expected = logits
            agreement = np.mean(logits.argmax(1) == expected.argmax(1))
            print(
                f"{' '.join((scheme, *choice.values())):32}{taken:12.1f}{scores.accuracy(logits, labels):12.4f}"
                f"{agreement:12.4f}{divergence(expected, logits):12.5f}",
                flush=True,
            )


def divergence(expected: np.ndarray, logits: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence in nats of the probabilities of logits [images, classes] from the expected."""
    right, given = (each - np.log(np.exp(each).sum(axis=1, keepdims=True)) for each in (expected, logits))
    return float(np.mean(np.sum(np.exp(right) * (right - given), axis=1)))


def fine_tuned() -> tuple[Bit, tuple[Pixels, np.ndarray], tuple[Pixels, np.ndarray]]:
    """The fine-tuned model of this checkout, and the images and labels of train and of test."""
    bit = Bit.load(FINETUNED)
    size = bit.architecture.image_size
    return bit, dataset.read("train", size), dataset.read("test", size)


def drawn(entry: Quantization, train: Pixels, labels: np.ndarray) -> np.ndarray | None:
    """The images that calibrate an entry, if any do."""
    return train[calibration.drawn(labels, entry)] if isinstance(entry, Calibrated) else None


def convolutions(rewrite: Rewrite, make: Callable[[bytes], bytes], scratch: Path, threads: Sequence[int]) -> None:
    """Print how many times as fast a convolution is by `rewrite`, of images of each side with C channels.

    make: what becomes of both float32 files.
    """
    for count in threads:
        head(count, *(f"C = {channels}" for channels in CHANNELS))
        for side in SIDES:
            ratios = []
            for channels in CHANNELS:
                files = {
                    "plain": make(single(side, channels, convolution)),
                    "rewritten": make(single(side, channels, rewrite)),
                }
                times = in_turns(written(files, scratch), count)
                ratios.append(ratio(times["plain"], times["rewritten"]))
            print(f"{f'{side} x {side}':18}" + "".join(ratios), flush=True)


def single(side: int, channels: int, rewrite: Rewrite) -> bytes:
    """The file of a 3x3 convolution of `channels` in and out, over side x side pixels, lowered by `rewrite`."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, channels, channels)).astype(np.float32)
    graph = Graph(Tensor("image", (1, side, side, channels)))
    graph.operator("conv", "conv", [graph.input, constant("kernel", kernel)], graph.input.shape, stride=1)
    return to_file(rewritten(graph, rewrite))


def head(threads: int, *columns: str) -> None:
    title = f"{threads} thread{'s' if threads > 1 else ''}"
    print(f"{title:18}" + "".join(f"{column:>12}" for column in columns))


def least(times: np.ndarray | None) -> str:
    return f"{'-':>12}" if times is None else f"{times.min():12.2f}"


def ratio(times: np.ndarray | None, others: np.ndarray | None) -> str:
    return f"{'-':>12}" if times is None or others is None else f"{np.median(times) / np.median(others):12.3f}"


def entries() -> dict[str, Quantization]:
    """What is measured, by the name it is printed under."""
    plain = {scheme: entry(scheme) for scheme in schemes.SCHEMES if scheme != CHOSEN}
    return plain | {name: entry(scheme, winograd=True) for name, scheme in WINOGRAD.items()}


def entry(scheme: str, **more: bool | float | str) -> Quantization:
    """The entry of params.yaml that names a scheme and, beside `more`, nothing else."""
    return TypeAdapter(Quantization).validate_python({"scheme": scheme, **more})


def r50x1() -> Bit:
    """BiT R50x1 for 10 classes with random weights, gammas and betas included."""
    bit = untrained("r50x1", published("r50x1"), seed=0)
    random = np.random.default_rng(0)
    weights = {
        name: value if name.endswith("/kernel") else (value + random.normal(0, 0.1, value.shape)).astype(np.float32)
        for name, value in bit.weights.items()
    }
    return bit.with_weights(weights).with_head(tuple(f"class{index}" for index in range(10)), SIZE)


def floor(bit: Bit, scheme: str, images: np.ndarray) -> bytes:
    """The file of `bit` with all norms frozen.

    Kernels of unit gain, so that activations stay in range without a norm.
    """
    bit = bit.folded()
    kernels = {name: kernel / np.sqrt(np.prod(kernel.shape[:3])) for name, kernel in bit.kernels.items()}
    weights = bit.weights | {name: kernel.astype(np.float32) for name, kernel in kernels.items()}
    bit = bit.with_weights(weights, frozen_norms=dict.fromkeys(bit.norms, 1.0))
    return conversion.convert(bit, entry(scheme), images)


def usual(bit: Bit, scheme: str, images: np.ndarray) -> bytes:
    """What `by_tensorflow` makes, in a process of its own: two calibrators have no room in one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(by_tensorflow, bit, scheme, images).result()


def by_tensorflow(bit: Bit, scheme: str, images: np.ndarray) -> bytes:
    """`bit` saved as a SavedModel as in Google's code, and converted as the converter's own guide says."""
    import tensorflow as tf

    from benchmarks.hub import HubModule

    with tempfile.TemporaryDirectory() as saved:
        module = HubModule(bit)
        pixels = tf.TensorSpec((None, *SIZE, 3), tf.float32)
        serve = tf.function(lambda pixels: module(pixels / 255), input_signature=[pixels])
        tf.saved_model.save(module, saved, signatures=serve)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        if scheme != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if scheme == "int8":
            converter.representative_dataset = lambda: ([image[None].astype(np.float32)] for image in images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        return converter.convert()


def written(files: dict, directory: Path) -> dict:
    """Paths of files that hold each content."""
    paths = {key: directory / f"{number}.tflite" for number, key in enumerate(files)}
    for key, path in paths.items():
        path.write_bytes(files[key])
    return paths


def in_turns(files: dict, threads: int) -> dict:
    """Milliseconds [rounds] of each file, the fastest run in each round."""
    classifiers = {key: runtime.Classifier(path, threads) for key, path in files.items()}
    times = {key: [] for key in files}
    for _ in range(ROUNDS):
        for key, classifier in classifiers.items():
            shape = classifier.input["shape"][1:]
            image = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
            runs = 1 if key == SLOW else RUNS if tuple(shape[:2]) == SIZE else 20 * RUNS
            times[key].append(classifier.latencies(image, warmup_runs=1, runs=runs).min())
    return {key: np.array(found) for key, found in times.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
