"""Time a .tflite file on this machine, in turns with the baseline.

    python -m stages.benchmark P-Q

Params benchmark, compare.baseline; models/tflite/P-Q.tflite and the baseline's, data/.machine ->
metrics/benchmark/P-Q.json, plots/benchmark/P-Q/layers.csv. LiteRT's interpreter is timed on one image; after that, in
runs of their own, the layers are.
"""

import time

import numpy as np

from bitlite.litert import latency
from bitlite.litert.runtime import Classifier
from bitlite.profiling import machine, operators, profile
from bitlite.workflow import metrics
from bitlite.workflow.command import run
from bitlite.workflow.files import write_csv
from bitlite.workflow.params import load
from bitlite.workflow.paths import METRICS, PLOTS, TFLITE


def main(variant: str) -> None:
    params = load()
    path, baseline = (TFLITE / f"{params.variant(name)}.tflite" for name in (variant, params.compare.baseline))
    threads, runs = params.benchmark.threads, params.benchmark.runs
    before, start = machine.peak_memory_mb(restart=True), time.perf_counter()
    classifier = Classifier(path, threads)
    load_ms = (time.perf_counter() - start) * 1000
    image = np.random.default_rng(0).integers(256, size=(*classifier.image_size, 3), dtype=np.uint8)
    (first_inference_ms,) = classifier.latencies(image, warmup_runs=0, runs=1)
    classifier.latencies(image, warmup_runs=params.benchmark.warmup_runs, runs=0)
    peak_memory_mb = machine.peak_memory_mb() - before

    other = Classifier(baseline, threads)
    other.latencies(image, warmup_runs=params.benchmark.warmup_runs, runs=0)
    latencies, baseline_latencies = latency.side_by_side(classifier, other, runs=runs)

    file = operators.read(path)
    recording = profile.record(path, image, threads=threads)
    layers = profile.layers(file, recording)
    write_csv(PLOTS / "benchmark" / variant / "layers.csv", profile.COLUMNS, layers)
    metrics.write(
        METRICS / "benchmark" / f"{variant}.json",
        metrics.Timing(
            **{f"latency_ms_p{share}": float(np.percentile(latencies, share)) for share in (50, 90, 99)},
            baseline_ms_p50=float(np.median(baseline_latencies)),
            load_ms=load_ms,
            first_inference_ms=float(first_inference_ms),
            runs=len(latencies),
            peak_memory_mb=peak_memory_mb,
            delegated=profile.delegated(file, recording),
            threads=threads,
            cpu=machine.cpu(),
        ),
    )


if __name__ == "__main__":
    run(main)
