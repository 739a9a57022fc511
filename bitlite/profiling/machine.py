"""The machine that benchmarks run on: its processor, and the memory of this process."""

import platform
import resource
import sys
from pathlib import Path

# Flags of /proc/cpuinfo by which XNNPACK chooses its code for int8 on x86 and ARM, the fastest first.
INTEGER_INSTRUCTIONS = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512bw": "AVX-512",
    "avx2": "AVX2",
    "i8mm": "I8MM",
    "asimddp": "dot product",
}


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


def peak_memory_mb(restart: bool = False) -> float:
    """The most memory that this process has held so far, in 10^6 bytes; `restart` counts from this call on (Linux)."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    # Linux's ru_maxrss would begin with the memory of the parent process.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
