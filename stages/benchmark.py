"""Time a .tflite file on this machine.

    python -m stages.benchmark P-Q

Params benchmark; models/tflite/P-Q.tflite -> metrics/benchmark/P-Q.json, plots/benchmark/P-Q/layers.csv. LiteRT's
interpreter is timed on one image; after that, in runs of their own, the layers are.
"""

import numpy as np

from bitlite.litert.runtime import Classifier
from bitlite.profiling import machine, operators, profile
from bitlite.workflow import metrics
from bitlite.workflow.command import run
from bitlite.workflow.files import write_csv
from bitlite.workflow.params import load
from bitlite.workflow.paths import METRICS, PLOTS, TFLITE


def main(variant: str) -> None:
    params = load()
    path, threads = TFLITE / f"{params.variant(variant)}.tflite", params.benchmark.threads
    before = machine.peak_memory_mb(restart=True)
    classifier = Classifier(path, threads)
    # No operator's time depends on the pixels, but noise keeps clear of zeros that a CPU might treat apart.
    image = np.random.default_rng(0).integers(256, size=(*classifier.image_size, 3), dtype=np.uint8)
    latencies = classifier.latencies(image, warmup_runs=params.benchmark.warmup_runs, runs=params.benchmark.runs)
    peak_memory_mb = machine.peak_memory_mb() - before

    file = operators.read(path)
    recording = profile.record(path, image, threads=threads)
    layers = profile.layers(file, recording)
    write_csv(PLOTS / "benchmark" / variant / "layers.csv", profile.COLUMNS, layers)
    metrics.write(
        METRICS / "benchmark" / f"{variant}.json",
        metrics.Timing(
            latency_ms_p50=float(np.percentile(latencies, 50)),
            latency_ms_p90=float(np.percentile(latencies, 90)),
            peak_memory_mb=peak_memory_mb,
            delegated=profile.delegated(file, recording),
            threads=threads,
            cpu=machine.cpu(),
        ),
    )


if __name__ == "__main__":
    run(main)
