"""The metrics that stages write: one record for each kind of JSON file below metrics/.

The stage that writes a file and everything that reads it share its record.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_type_hints

from bitlite.workflow.errors import InputError, missing
from bitlite.workflow.files import write_json

Record = TypeVar("Record")


@dataclass(frozen=True)
class ModelScores:
    """metrics/finetune.json: a model before conversion.

    accuracy, top5_accuracy: shares of the test images, 0..1.
    parameters: number of all weights. sparsity: share of zeros among the weights of its kernels, 0..1.
    macs: multiply-adds an image.
    """

    accuracy: float
    top5_accuracy: float
    parameters: int
    sparsity: float
    macs: int


@dataclass(frozen=True)
class PrunedScores(ModelScores):
    """metrics/prune/P.json: a pruned and recovered model; a quantized one as int8_mixed, dynamic or int4 has it.

    accuracy_before_recovery: share of the test images, 0..1, that it classified rightly before it was trained on.
    frozen_norms: how many of its norms have constants for statistics.
    """

    accuracy_before_recovery: float
    frozen_norms: int


@dataclass(frozen=True)
class Evaluation:
    """metrics/evaluate/P-Q.json: accuracy and size of a .tflite file.

    accuracy, top5_accuracy: shares of the test images, 0..1. validation_accuracy: share of the validation images.
    agreement: share of the test images, 0..1, that it puts in the same class as the fine-tuned, unconverted model.
    size_bytes, gzip_bytes: the file as it is, and after gzip. sparsity: share of zeros in its kernels, 0..1.
    """

    accuracy: float
    top5_accuracy: float
    validation_accuracy: float
    agreement: float
    size_bytes: int
    gzip_bytes: int
    sparsity: float


@dataclass(frozen=True)
class Places:
    """metrics/where/P-Q.json: what comes of a .tflite file elsewhere than on this CPU. None (null): not checked here.

    images_tried: test images that the file ran on in each place. Agreements are shares of them, 0..1: those that fall
    into the class that the CPU gives; 0 for a place that refuses the file.
    gpu_agreement: of LiteRT's GPU delegate. gpu_whole: whether it takes all of the file's operators.
    gpu_difference: the largest difference of an output from the CPU's, over the CPU's largest; None too if there was
    no output.
    float16_agreement: of the CPU made to compute in float16; None too for files of integers throughout. float16_peak:
    the largest activation, square or sum over pixels on these images, over 65,504, float16's largest; 0 for those.
    tflm_agreement: of TensorFlow Lite Micro. tflm_arena_bytes: memory for its activations; None too if it refuses.
    npu: the Ethos-U of params.yaml. npu_share: share of the operators, 0..1, that Vela puts there. npu_cycles: what an
    image takes there by Vela's reckoning; None too if nothing is there.
    oldest_runtime: the first release of TensorFlow Lite or LiteRT that runs the file, by what the file says.
    """

    images_tried: int
    gpu_agreement: float | None
    gpu_whole: bool | None
    gpu_difference: float | None
    float16_agreement: float | None
    float16_peak: float | None
    tflm_agreement: float | None
    tflm_arena_bytes: int | None
    npu: str
    npu_share: float | None
    npu_cycles: int | None
    oldest_runtime: str


@dataclass(frozen=True)
class Timing:
    """metrics/benchmark/P-Q.json: how fast a .tflite file runs, one image at a time.

    latency_ms_p50, _p90, _p99: median and percentiles of the milliseconds that an image takes, in so many `runs`.
    baseline_ms_p50: median of the baseline's, in turns with these: their ratio holds though the machine drifts.
    load_ms, first_inference_ms: milliseconds from the file to a ready interpreter, and of the first image.
    peak_memory_mb: 10^6 bytes by which the process grew while it loaded and ran the file.
    delegated: share of the file's operators that XNNPACK runs, 0..1.
    threads: of LiteRT. cpu: the machine's processor.
    """

    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_p99: float
    baseline_ms_p50: float
    load_ms: float
    first_inference_ms: float
    runs: int
    peak_memory_mb: float
    delegated: float
    threads: int
    cpu: str


@dataclass(frozen=True)
class DeviceTiming:
    """metrics/devices/NAME/P-Q.json: how fast a .tflite file runs on a phone or a board, one image at a time.

    Every variant is timed in several turns, by a process of its own in each. Each number is the median of its turns'.
    latency_ms_p50: median of the milliseconds that an image takes. load_ms, first_inference_ms: milliseconds from the
    file to a ready interpreter, and of the first image.
    peak_memory_mb: 10^6 bytes by which the process grew while it loaded and ran the file.
    threads: of LiteRT. cpu: the device's processor.
    """

    latency_ms_p50: float
    load_ms: float
    first_inference_ms: float
    peak_memory_mb: float
    threads: int
    cpu: str


@dataclass(frozen=True)
class PhoneTiming(DeviceTiming):
    """By LiteRT's benchmark_model, which gives no percentile but the 95th. gpu: whether on the GPU, all of the file."""

    latency_ms_p95: float
    gpu: bool


@dataclass(frozen=True)
class BoardTiming(DeviceTiming):
    """By LiteRT's Python package. runtime: its name and version."""

    latency_ms_p90: float
    latency_ms_p99: float
    runtime: str


@dataclass(frozen=True)
class Summary:
    """metrics/summary.json: the selected variant, alone and against the baseline.

    selected: its name. accuracy: share of the test images, 0..1. accuracy_drop: how far it lies below the baseline's.
    size_ratio: its size over the baseline's. speedup: the baseline's median latency over its own, from runs in turns.
    """

    selected: str
    accuracy: float
    accuracy_drop: float
    size_bytes: int
    size_ratio: float
    latency_ms_p50: float
    speedup: float


def write(path: Path, record: object) -> None:
    """Write one of the records above. A number that is NaN or infinite raises ValueError."""
    write_json(path, vars(record))


def read(path: Path, kind: type[Record]) -> Record:
    """The record of this kind in a JSON file, which may hold more.

    Raises InputError naming the file and the command that makes it, if it is missing, is no JSON or lacks a key.
    """
    types = get_type_hints(kind)
    try:
        content = json.loads(path.read_text())
        # What is absent is `...`, which fits no type.
        wrong = [key for key, type_ in types.items() if not _fits(content.get(key, ...), type_)]
    except FileNotFoundError:
        raise missing(path) from None
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} holds no metrics ({error}): delete it and run `dvc repro`") from error
    if wrong:
        found = f"{content[wrong[0]]!r} as" if wrong[0] in content else "no"
        raise InputError(f"{path} holds {found} {wrong[0]}: delete it and run `dvc repro`")
    return kind(**{key: content[key] for key in types})


def _fits(value: object, type_: Any) -> bool:
    """Whether a value of a JSON file is of a record's type: str, bool, int, float, or one of these or None."""
    if isinstance(type_, UnionType):
        return any(_fits(value, each) for each in type_.__args__)
    if type_ in (int, float):  # JSON writes 1.0 as 1 in places, and Python's bool is an int
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, type_)
