"""The machine that benchmarks run on: its processor, and the memory of this process."""

import os
import platform
import resource
import sys
from contextlib import suppress
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
# Those by which it chooses its code for other types too.
XNNPACK_INSTRUCTIONS = {
    *INTEGER_INSTRUCTIONS, "avx", "f16c", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16",
    "fphp", "asimdhp", "bf16", "sve", "sme",
}  # fmt: skip


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system gives it, with the best of INTEGER_INSTRUCTIONS that it has.

    On ARM, where processors have no name there, it is the board's, as in its device tree.
    """
    content, name = "", ""
    with suppress(OSError):
        content = cpuinfo.read_text()
        name = _fields(content).get("model name") or (cpuinfo.parent / "device-tree/model").read_text().strip("\0 \n")
    return with_instructions(name or platform.processor() or platform.machine(), content)


def with_instructions(name: str, cpuinfo: str) -> str:
    """The name of a processor with the best of INTEGER_INSTRUCTIONS that it has by the content of /proc/cpuinfo.

    Virtual machines often have nothing but the make for a name, while these decide how fast int8 is.
    """
    flags = _flags(cpuinfo)
    best = next((known for flag, known in INTEGER_INSTRUCTIONS.items() if flag in flags), None)
    return f"{name} ({best})" if best else name


def kind(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict:
    """What timings depend on: the processor, the instructions among XNNPACK's that it has, and how many cores.

    And the host, where BITLITE_HOST tells it from others of its kind: a sweep over hosts shares one run cache.
    """
    flags = _flags(cpuinfo.read_text()) if cpuinfo.exists() else set()
    return {
        "cpu": cpu(cpuinfo),
        "architecture": platform.machine(),
        "instructions": sorted(flags & XNNPACK_INSTRUCTIONS),
        "cores": os.cpu_count(),
        "system": platform.system(),
        **({"host": host} if (host := os.environ.get("BITLITE_HOST")) else {}),
    }


def _fields(cpuinfo: str) -> dict[str, str]:
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _flags(cpuinfo: str) -> set[str]:
    fields = _fields(cpuinfo)
    return set(fields.get("flags", fields.get("Features", "")).split())


def peak_memory_mb(restart: bool = False, proc: Path = Path("/proc/self")) -> float:
    """The most memory that this process has held so far, in 10^6 bytes.

    `restart` counts from this call on, where the system can, which macOS and sandboxes can't. Where Linux's /proc keeps
    no peak, as gVisor's, it is what the process holds now.
    """
    if restart:
        with suppress(OSError):
            (proc / "clear_refs").write_text("5")
    status = {}
    with suppress(OSError):
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    if held := status.get("VmHWM") or status.get("VmRSS"):
        return int(held.split()[0]) * 1024 / 1e6
    # Linux's begins with the memory of the parent process.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
