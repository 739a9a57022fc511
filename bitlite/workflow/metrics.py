"""The metrics that stages write: one record for each kind of JSON file below metrics/.

The stage that writes a file and everything that reads it share its record.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from bitlite.workflow.errors import damaged, missing, one_line
from bitlite.workflow.files import write_json
from bitlite.workflow.params import Count, Positive, Share

Record = TypeVar("Record")

# What a file's number can be: it may have been edited, merged or damaged.
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# From a nanosecond to eleven days.
Milliseconds = Annotated[float, Field(ge=1e-6, le=1e9)]


@dataclass(frozen=True)
class ModelScores:
    """metrics/finetune.json: a model before conversion.

    accuracy, top5_accuracy: shares of the test images, 0..1.
    parameters: number of all weights. sparsity: share of zeros among the weights of its kernels, 0..1.
    macs: multiply-adds an image.
    """

    accuracy: Share
    top5_accuracy: Share
    parameters: Positive
    sparsity: Share
    macs: Positive


@dataclass(frozen=True)
class PrunedScores(ModelScores):
    """metrics/prune/P.json: a pruned and recovered model; a quantized one as int8_mixed, dynamic or int4 has it.

    accuracy_before_recovery: share of the test images, 0..1, that it classified rightly before it was trained on.
    frozen_norms: how many of its norms have constants for statistics.
    """

    accuracy_before_recovery: Share
    frozen_norms: Count


@dataclass(frozen=True)
class Evaluation:
    """metrics/evaluate/P-Q.json: accuracy and size of a .tflite file.

    accuracy, top5_accuracy: shares of the test images, 0..1. validation_accuracy: share of the validation images.
    agreement: share of the test images, 0..1, that it puts in the same class as the fine-tuned, unconverted model.
    size_bytes, gzip_bytes: the file as it is, and after gzip. sparsity: share of zeros in its kernels, 0..1.
    """

    accuracy: Share
    top5_accuracy: Share
    validation_accuracy: Share
    agreement: Share
    size_bytes: Positive
    gzip_bytes: Positive
    sparsity: Share


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

    images_tried: Count
    gpu_agreement: Share | None
    gpu_whole: bool | None
    gpu_difference: Amount | None
    float16_agreement: Share | None
    float16_peak: Amount | None
    tflm_agreement: Share | None
    tflm_arena_bytes: Count | None
    npu: str
    npu_share: Share | None
    npu_cycles: Count | None
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

    latency_ms_p50: Milliseconds
    latency_ms_p90: Milliseconds
    latency_ms_p99: Milliseconds
    baseline_ms_p50: Milliseconds
    load_ms: Amount
    first_inference_ms: Milliseconds
    runs: Positive
    peak_memory_mb: Amount
    delegated: Share
    threads: Positive
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

    latency_ms_p50: Milliseconds
    load_ms: Amount
    first_inference_ms: Milliseconds
    peak_memory_mb: Amount
    threads: Positive
    cpu: str


@dataclass(frozen=True)
class PhoneTiming(DeviceTiming):
    """By LiteRT's benchmark_model, which gives no percentile but the 95th. gpu: whether on the GPU, all of the file."""

    latency_ms_p95: Milliseconds
    gpu: bool


@dataclass(frozen=True)
class BoardTiming(DeviceTiming):
    """By LiteRT's Python package. runtime: its name and version."""

    latency_ms_p90: Milliseconds
    latency_ms_p99: Milliseconds
    runtime: str


@dataclass(frozen=True)
class Summary:
    """metrics/summary.json: the selected variant, alone and against the baseline.

    selected: its name. accuracy: share of the test images, 0..1. accuracy_drop: how far it lies below the baseline's.
    size_ratio: its size over the baseline's. speedup: the baseline's median latency over its own, from runs in turns.
    """

    selected: str
    accuracy: Share
    accuracy_drop: float
    size_bytes: Positive
    size_ratio: Amount
    latency_ms_p50: Milliseconds
    speedup: Amount


def write(path: Path, record: object) -> None:
    """Write one of the records above. A number that is NaN or infinite raises ValueError."""
    write_json(path, vars(record))


def read(path: Path, kind: type[Record]) -> Record:
    """The record of this kind in a JSON file, which may hold more.

    Raises InputError naming the file and the command that makes it, if it is missing, is no JSON, lacks a key, or has a
    value that can't be.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise missing(path) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        if not key:
            raise damaged(path, f"holds no metrics ({first['msg']})") from error
        found = "no" if first["type"] == "missing" else f"{first['input']!r} as"
        raise damaged(path, f"holds {found} {key}") from error
    except OSError as error:
        raise damaged(path, f"holds no metrics ({one_line(error)})") from error
