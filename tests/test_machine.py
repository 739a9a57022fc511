import sys

import numpy as np
import pytest

from bitlite.profiling.machine import cpu, kind, peak_memory_mb


@pytest.mark.parametrize(
    "cpuinfo, expected",
    [
        (
            "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fma avx2 avx512bw avx512_vnni\n",
            "AMD EPYC (AVX-512 VNNI)",
        ),
        ("processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fma avx2\n", "AMD EPYC (AVX2)"),
        ("processor\t: 0\nmodel name\t: Atom\nflags\t\t: sse2 notavx2\n", "Atom"),
        ("processor\t: 0\nmodel name\t: Neoverse-N1\nFeatures\t: asimd asimddp\n", "Neoverse-N1 (dot product)"),
    ],
)
def test_cpu_tells_machines_of_one_name_apart(cpuinfo, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cpu(tmp_path / "cpuinfo") == expected


def test_cpu_of_a_board_is_the_board_s(tmp_path):
    (tmp_path / "device-tree").mkdir()
    (tmp_path / "device-tree/model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: asimd asimddp\nCPU part\t: 0xd0b\n")
    assert cpu(tmp_path / "cpuinfo") == "Raspberry Pi 5 Model B Rev 1.0 (dot product)"


def test_cpu_without_cpuinfo_is_named(tmp_path):
    assert cpu(tmp_path / "none")


def test_machines_of_one_name_and_other_instructions_or_cores_are_of_another_kind(tmp_path, monkeypatch):
    def found(flags, cores):
        (tmp_path / "cpuinfo").write_text(f"model name\t: EPYC\ncpu MHz\t: {len(flags)}\nflags\t\t: {flags}\n")
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        return kind(tmp_path / "cpuinfo")

    assert found("avx2 avx512_vnni amx_int8", 2) != found("avx2 avx512_vnni", 2) != found("avx2 avx512_vnni", 4)
    # Not of what XNNPACK does not look at, nor of what changes by the minute.
    assert found("avx2 fma smep", 2) == found("fma avx2", 2)


def test_peak_memory_is_that_since_the_restart():
    before = peak_memory_mb(restart=True)
    held = np.ones(100_000_000, np.uint8)
    assert peak_memory_mb() - before == pytest.approx(100, abs=10)
    del held
    # A peak stays when the memory is given back, until the next restart.
    assert peak_memory_mb() - before > 90
    if sys.platform == "linux":
        assert peak_memory_mb(restart=True) - before < 10


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        # gVisor's /proc has no peak, and no clear_refs.
        ("Name:\tpython\nVmSize:\t    9000 kB\nVmRSS:\t    1000 kB\n", 1.024),
        ("Name:\tpython\nVmHWM:\t    2000 kB\nVmRSS:\t    1000 kB\n", 2.048),
    ],
)
def test_peak_memory_where_it_can_t_be_restarted(status, expected, tmp_path):
    (tmp_path / "status").write_text(status)
    (tmp_path / "clear_refs").mkdir()
    assert peak_memory_mb(restart=True, proc=tmp_path) == expected


def test_peak_memory_without_proc_is_what_the_system_counts(tmp_path):
    before = peak_memory_mb(proc=tmp_path / "none")
    held = np.ones(int(before * 1e6) + 100_000_000, np.uint8)  # more than was ever held
    assert peak_memory_mb(restart=True, proc=tmp_path / "none") == pytest.approx(before + held.nbytes / 1e6, rel=0.5)
