"""Time a .tflite file on this machine.

    python -m stages.benchmark P-Q

Params benchmark; models/tflite/P-Q.tflite -> metrics/benchmark/P-Q.json, plots/benchmark/P-Q/layers.csv. Latency is
that of LiteRT's interpreter for one image; peak_memory_mb (10^6 bytes) is what the process grew by while it loaded and
ran the file. Where the time goes is measured after that, in runs of its own.
"""

import platform
import resource
import sys
from pathlib import Path

import numpy as np

from bitlite.litert import runtime
from bitlite.profiling import profile
from bitlite.workflow.command import run
from bitlite.workflow.files import write_csv, write_json
from bitlite.workflow.params import load
from bitlite.workflow.paths import METRICS, PLOTS, TFLITE

# Flags of /proc/cpuinfo by which XNNPACK chooses its code for int8 on x86 and ARM, the fastest first.
INTEGER_INSTRUCTIONS = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512bw": "AVX-512",
    "avx2": "AVX2",
    "i8mm": "I8MM",
    "asimddp": "dot product",
}
# Of the profiler, beside the interpreter: 100 runs of each.
ROUNDS = 10


def main(variant: str) -> None:
    params = load().benchmark
    before = peak_memory_mb(restart=True)
    path = TFLITE / f"{variant}.tflite"
    classifier = runtime.Classifier(path, params.threads)
    # No operator's time depends on the pixels, but noise keeps clear of zeros that a CPU might treat apart.
    image = np.random.default_rng(0).integers(256, size=(*classifier.image_size, 3), dtype=np.uint8)
    latencies = classifier.latencies(image, warmup_runs=params.warmup_runs, runs=params.runs)
    memory = peak_memory_mb() - before
    operators = profile.operators(path)
    recording = profile.record(path, image, threads=params.threads, rounds=ROUNDS)
    layers = profile.layers(operators, recording)
    write_csv(PLOTS / "benchmark" / variant / "layers.csv", profile.COLUMNS, layers)
    write_json(
        METRICS / "benchmark" / f"{variant}.json",
        {
            "latency_ms_p50": float(np.percentile(latencies, 50)),
            "latency_ms_p90": float(np.percentile(latencies, 90)),
            "peak_memory_mb": memory,
            "delegated": profile.delegated(operators, recording),
            "threads": params.threads,
            "cpu": cpu(),
        },
    )


def peak_memory_mb(restart: bool = False) -> float:
    """The most memory that this process has held so far, in 10^6 bytes; `restart` counts from now (Linux only)."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    # Linux's ru_maxrss would begin with what the parent process held.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system gives it, with the best of INTEGER_INSTRUCTIONS that it has.

    Virtual machines often have nothing but the make for a name, while these decide how fast int8 is.
    """
    fields = {}
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        fields = {key.strip(): value.strip() for key, _, value in lines}
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = fields.get("flags", fields.get("Features", "")).split()
    best = next((known for flag, known in INTEGER_INSTRUCTIONS.items() if flag in flags), None)
    return f"{name} ({best})" if best else name


if __name__ == "__main__":
    run(main)
