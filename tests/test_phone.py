"""Timing on a phone, against a stand-in for adb and for LiteRT's benchmark_model."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitlite.workflow import metrics
from bitlite.workflow.errors import InputError
from ship import devices, phone

PROJECT = Path(__file__).parents[1]
PARAMS = """
dataset: {name: mnist5k}
backbone: {name: bit-tiny}
quantization:
  float32: {scheme: float32}
  dynamic: {scheme: dynamic}
  int8: {scheme: int8}
benchmark: {threads: 2, warmup_runs: 30, runs: 400}
"""
PROPERTIES = {
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 8 (Pro)",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a",
    "ro.soc.manufacturer": "Google",
    "ro.soc.model": "Tensor G3",
}
VARIANTS = ["dense-float32", "dense-dynamic", "dense-int8"]


def elf(bits=64, machine=183, linker=b"/system/bin/linker64\0"):
    """A program for Android as far as the headers go, by the ELF specification. linker: empty for a static one."""
    wide = bits == 64
    identity = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    head, entry = (64, 56) if wide else (52, 32)
    sizes = (head, entry, 2 if linker else 1, 0, 0, 0)
    header = struct.pack("<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH", 3, machine, 1, 0, head, 0, 0, *sizes)
    at = head + entry * sizes[2]
    load = struct.pack("<IIQQQQQQ" if wide else "<IIIIIIII", 1, *[0] * 7)
    if wide:
        named = struct.pack("<IIQQQQQQ", 3, 4, at, 0, 0, len(linker), len(linker), 1)
    else:
        named = struct.pack("<IIIIIIII", 3, at, 0, 0, len(linker), len(linker), 4, 1)
    return identity + header + load + (named + linker if linker else b"")


class Standin:
    def __init__(self, folder):
        self.folder = folder
        self.program = folder.parent / "adb"
        self.program.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -SE "{PROJECT / "tests/standin_adb.py"}" "{folder}" "$@"\n'
        )
        self.program.chmod(0o755)
        self.set(
            devices=["38201FDH\tdevice"],
            properties=PROPERTIES,
            cpuinfo="Features\t: fp asimd asimddp",
            exit_codes=True,
            unplugged_after=999,
            benchmark={},
        )

    def set(self, **changes):
        path = self.folder / "phone.json"
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))

    def lines(self, name):
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def left(self):
        return [path.name for path in self.folder.iterdir() if path.is_dir()]


@pytest.fixture
def five_rounds(standin, monkeypatch):
    monkeypatch.setattr(devices, "ROUNDS", 5)


@pytest.fixture
def standin(tmp_path, monkeypatch):
    (tmp_path / "the phone").mkdir()
    project = tmp_path / "my project"
    (project / "models/tflite").mkdir(parents=True)
    (project / "params.yaml").write_text(PARAMS)
    for number, variant in enumerate(VARIANTS):
        (project / f"models/tflite/{variant}.tflite").write_bytes(bytes(number + 1))
    (project / "benchmark model").write_bytes(elf())
    monkeypatch.chdir(project)
    monkeypatch.setattr(devices, "ROUNDS", 1)
    return Standin(tmp_path / "the phone")


def timed(standin, *more):
    phone.main("--adb", str(standin.program), "--benchmark-model", "benchmark model", *more)


def written(name="Pixel-8-Pro"):
    return {path.stem: metrics.read(path, metrics.PhoneTiming) for path in (devices.DEVICES / name).glob("*.json")}


def test_each_number_is_the_median_of_what_benchmark_model_found_in_its_turns(standin, five_rounds, capsys):
    standin.set(benchmark={"dense-float32": {"us": 2000}, "dense-int8": {"kind": "compiled", "us": 500}})
    timed(standin)
    assert set(written()) == set(VARIANTS)
    # float32 was the 1st, 6th, 7th, 12th and 13th to run: that many us more.
    assert written()["dense-float32"] == metrics.PhoneTiming(
        latency_ms_p50=2.007,
        latency_ms_p95=4.014,
        first_inference_ms=14.049,
        load_ms=4.125,
        peak_memory_mb=10.48576,  # 10 MiB
        threads=2,
        cpu="Google Tensor G3 (dot product)",
        gpu=False,
    )
    int8 = written()["dense-int8"]
    assert (int8.latency_ms_p50, int8.latency_ms_p95, int8.peak_memory_mb) == (0.509, 1.018, 10.48576)
    assert int8.first_inference_ms == pytest.approx(7 * 0.509)
    shown = capsys.readouterr().out
    assert "Pixel 8 (Pro)" in shown
    assert "2.01 ms" in next(line for line in shown.splitlines() if line.startswith("dense-float32"))


def test_variants_take_turns_forth_and_back(standin, five_rounds):
    timed(standin)
    forth = VARIANTS
    assert [run["graph"] for run in standin.lines("runs")] == [*forth, *forth[::-1], *forth, *forth[::-1], *forth]


def test_benchmark_model_is_told_what_params_yaml_says(standin, five_rounds):
    timed(standin, "--variants", "dense-int8")
    given = {"num_threads": "2", "warmup_runs": "30", "num_runs": "80", "min_secs": "1.0", "use_xnnpack": "true"}
    assert standin.lines("runs") == [{"graph": "dense-int8", **given}] * 5
    timed(standin, "--variants", "dense-int8", "--threads", "4")
    assert standin.lines("runs")[-1]["num_threads"] == "4"
    assert written()["dense-int8"].threads == 4


def test_a_gpu_has_the_whole_file_and_a_folder_of_its_own(standin):
    timed(standin, "--gpu")
    run = standin.lines("runs")[0]
    assert (run["use_gpu"], run["use_cpu"], run["require_full_delegation"]) == ("true", "false", "true")
    assert "use_xnnpack" not in run
    assert written("Pixel-8-Pro-gpu")["dense-int8"].gpu
    assert not written()


def test_the_table_sets_them_beside_this_machine_s(standin, capsys):
    here = {"latency_ms_p50": 0.25, "latency_ms_p90": 0.3, "peak_memory_mb": 9, "delegated": 1.0, "threads": 1}
    more = {"latency_ms_p99": 0.4, "load_ms": 3.0, "first_inference_ms": 1.0, "baseline_ms_p50": 0.5, "runs": 400}
    metrics.write(Path("metrics/benchmark/dense-int8.json"), metrics.Timing(**here, **more, cpu="Our CPU"))
    timed(standin)
    lines = capsys.readouterr().out.splitlines()
    assert any("Our CPU" in line for line in lines)
    assert next(line for line in lines if line.startswith("dense-int8")).split()[1:5] == ["0.250", "ms", "1.00", "ms"]
    assert next(line for line in lines if line.startswith("dense-dynamic")).split()[1] == "-"


def test_nothing_stays_on_the_phone(standin):
    timed(standin)
    assert standin.left() == []
    pushed = [call for call in standin.lines("log") if "push" in call]
    assert sum(len(call) - 4 for call in pushed) == 1 + len(VARIANTS)
    assert all(call[-1].startswith("/data/local/tmp/bitlite-") for call in pushed)


def test_a_name_may_be_given(standin):
    timed(standin, "--name", "desk_phone.2")
    assert set(written("desk_phone.2")) == set(VARIANTS)


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "-rf", "two words"])
def test_a_name_that_is_no_folder_s_is_refused(standin, name, capsys):
    with pytest.raises(SystemExit) as end:
        timed(standin, f"--name={name}")
    assert end.value.code == 2
    assert "can't be a folder's name" in capsys.readouterr().err


def test_what_a_phone_says_of_itself_is_not_trusted(standin, capsys):
    standin.set(properties={**PROPERTIES, "ro.product.model": "../\33[31m$(x)", "ro.soc.model": "G3\33]0;"})
    timed(standin)
    assert [path.name for path in devices.DEVICES.iterdir()] == ["31m-x"]
    assert "\33" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "devices_, told",
    [
        ([], "no phone is connected: allow USB debugging"),
        (["A1\tunauthorized"], "A1 is unauthorized: unlock it and allow USB debugging"),
        (["A1\toffline"], "A1 is offline: pull the cable"),
        (["A1\tno permissions (missing udev rules? user is in the plugdev group); see [http://]"], "install"),
        (["A1\trecovery"], "A1 is recovery: start it as usual"),
        (["A1\tdevice", "B2\tunauthorized"], "2 phones are connected: choose by --device: A1, B2"),
    ],
)
def test_a_phone_that_can_t_be_used_is_told_with_what_to_do(standin, devices_, told):
    standin.set(devices=devices_)
    with pytest.raises(InputError, match="^[^\n]*$") as error:
        timed(standin)
    assert told in str(error.value)


def test_one_of_several_phones_may_be_chosen(standin):
    standin.set(devices=["A1\tdevice", "B2\tdevice"])
    timed(standin, "--device", "B2")
    assert {call[1] for call in standin.lines("log") if call[0] == "-s"} == {"B2"}
    with pytest.raises(InputError, match="no phone C3 is connected; there are: A1, B2"):
        timed(standin, "--device", "C3")


def test_adb_that_is_not_there_is_told(standin):
    with pytest.raises(InputError, match="nowhere/adb is not here: install Android's platform tools"):
        phone.main("--adb", "nowhere/adb", "--benchmark-model", "benchmark model")


@pytest.mark.parametrize(
    "content, told",
    [
        (None, "can't be read"),
        (b"", "no program"),
        (b"#!/bin/sh\n", "no program"),
        (b"PK\3\4" + bytes(100), "an app or an archive"),
        (elf(machine=62), "is for x86_64, the phone runs arm64-v8a and armeabi-v7a"),
        (
            elf(linker=b"/lib/ld-linux-aarch64.so.1\0"),
            "is for Linux, not for Android: it wants /lib/ld-linux-aarch64.so.1",
        ),
    ],
)
def test_a_binary_that_the_phone_does_not_run_is_told_before_anything_is_sent(standin, content, told):
    Path("benchmark model").unlink()
    if content is not None:
        Path("benchmark model").write_bytes(content)
    with pytest.raises(InputError, match="^[^\n]*docs/devices.md") as error:
        timed(standin)
    assert told in str(error.value)
    assert not any("push" in call for call in standin.lines("log"))


@pytest.mark.parametrize("content", [elf(32, 40, b"/system/bin/linker\0"), elf(linker=b"")])
def test_binaries_of_the_phone_s_other_kinds_are_taken(standin, content):
    Path("benchmark model").write_bytes(content)
    timed(standin)
    assert set(written()) == set(VARIANTS)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at a program of Linux")
def test_a_real_program_of_linux_is_known_as_one(standin):
    standin.set(properties={**PROPERTIES, "ro.product.cpu.abilist": ",".join(phone.ELF)})
    with pytest.raises(InputError, match="is for Linux, not for Android: it wants /lib.*/ld-"):
        timed(standin, "--benchmark-model", "/bin/sh")


def test_files_that_are_not_there_are_left_out_unless_named(standin, capsys):
    Path("models/tflite/dense-int8.tflite").unlink()
    timed(standin)
    assert set(written()) == {"dense-float32", "dense-dynamic"}
    assert "no file yet, so left out: dense-int8" in capsys.readouterr().out
    with pytest.raises(InputError, match="dense-int8.tflite is missing: run `dvc repro`"):
        timed(standin, "--variants", "dense-int8")
    with pytest.raises(InputError, match="asks for no variant 'dense-int4'"):
        timed(standin, "--variants", "dense-int4")


@pytest.mark.parametrize("exit_codes", [True, False])
def test_a_file_that_is_refused_does_not_stop_the_others(standin, five_rounds, exit_codes, capsys):
    standin.set(benchmark={"dense-dynamic": {"kind": "fails"}}, exit_codes=exit_codes)
    with pytest.raises(InputError, match="1 of 3 files were not timed"):
        timed(standin)
    assert set(written()) == {"dense-float32", "dense-int8"}
    told = capsys.readouterr().err
    assert "dense-dynamic: " in told and "Benchmarking failed" in told and "\33" not in told
    assert [run["graph"] for run in standin.lines("runs")].count("dense-dynamic") == 1
    assert standin.left() == []


def test_a_benchmark_model_without_medians_is_too_old(standin, capsys):
    standin.set(benchmark={variant: {"kind": "old"} for variant in VARIANTS})
    with pytest.raises(InputError, match="3 of 3 files were not timed"):
        timed(standin)
    assert "too old" in capsys.readouterr().err
    assert not devices.DEVICES.exists()


def test_a_phone_that_is_unplugged_meanwhile_ends_it(standin, capsys):
    standin.set(unplugged_after=1)
    with pytest.raises(InputError, match="^[^\n]*device '38201FDH' not found$"):
        timed(standin)
    assert capsys.readouterr().err == ""
    assert not devices.DEVICES.exists()


def test_an_interrupt_leaves_nothing_on_the_phone_and_no_metrics(standin):
    standin.set(benchmark={"dense-dynamic": {"kind": "hangs"}})
    command = [sys.executable, "-m", "ship.phone", "--adb", standin.program, "--benchmark-model", "benchmark model"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            end = time.monotonic() + 60
            while not (standin.folder / "runs").exists() or len(standin.lines("runs")) < 2:
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.05)
            assert standin.left()
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[1] == "interrupted\n"
        finally:
            process.kill()
    assert process.returncode == 130
    assert standin.left() == []
    assert not devices.DEVICES.exists()


def test_neither_command_imports_tensorflow():
    code = "import sys, ship.phone, ship.board; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0
