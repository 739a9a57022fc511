"""Standard error of a stage: notices of libraries are dropped, all else shows, whatever ends the process."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
INFO = "I0000 00:00:1795674192.055504    6466 port.cc:153] oneDNN custom operations are on."
ERROR = "E0000 00:00:1795674192.055504    6466 executor.cc:153] out of memory"
NO_DRIVER = (
    "E0000 00:00:1795674192.055504    6466 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed "
    "call to cuInit: "
)
HEAD = """
import os, subprocess, sys, time
import bitlite
def say(*lines): os.write(2, "".join(f"{line}\\n" for line in lines).encode())  # as C++ does
"""


@pytest.fixture
def stage(tmp_path):
    """A shell command that runs `code` as a stage."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()

    def command(code: str) -> dict:
        (tmp_path / "stages" / "example.py").write_text(HEAD + code)
        return {
            "args": f"{sys.executable} -m stages.example",
            "shell": True,
            "cwd": tmp_path,
            "env": {**os.environ, "PYTHONPATH": str(PROJECT)},
        }

    return command


def errors(command: dict) -> str:
    """What `command` writes to standard error."""
    return subprocess.run(**command, check=False, text=True, stderr=subprocess.PIPE).stderr


def test_only_notices_are_dropped(stage):
    shown = [ERROR, f"{NO_DRIVER}CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)", "INFO: a stage's own", f"seen: {INFO}"]
    notices = [
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        INFO,
        f"{NO_DRIVER}UNKNOWN ERROR (303)",
        "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
        "LZWDecode: Not enough data at scanline 0 (short 7 bytes).",
        "tempfile.tif: Using code not yet in table.",
        "fully_quantize: 0, inference_type: 6, input_inference_type: UINT8, output_inference_type: UINT8",
    ]
    assert errors(stage(f"say(*{notices + shown + notices!r})")).splitlines() == shown


@pytest.mark.parametrize(
    "end", ["os.abort()", "os.kill(os.getpid(), 9)", "os._exit(1)", "import ctypes; ctypes.string_at(0)", "sys.exit(1)"]
)
def test_last_words_show_however_the_process_ends(stage, end):
    fatal = "F0000 00:00:1795674192.055504    6466 executor.cc:7] Check failed: no end of line"
    shown = errors(stage(f"say({ERROR!r}); os.write(2, {fatal.encode()!r}); {end}")).splitlines()
    assert {ERROR, fatal} <= set(shown)


def test_a_traceback_shows(stage):
    assert errors(stage("raise RuntimeError('boom')")).endswith("\nRuntimeError: boom\n")


def test_lines_show_at_once(stage):
    command = stage(f"say({ERROR!r}); time.sleep(60)")
    running = subprocess.Popen(**command | {"args": command["args"].split(), "shell": False}, stderr=subprocess.PIPE)
    begin = time.monotonic()
    try:
        assert running.stderr.readline().decode().strip() == ERROR
        assert time.monotonic() - begin < 30
    finally:
        running.kill()
        running.communicate()


def test_all_lines_are_out_when_the_process_ends(stage):
    command = stage(f"say(*[{ERROR!r}] * 1000)")
    command["args"] += "; echo the end >&2"
    assert errors(command).splitlines() == [ERROR] * 1000 + ["the end"]


def test_a_process_left_behind_does_not_hold_up_the_end(stage):
    code = "left = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL); say(left.pid)"
    begin = time.monotonic()
    pid = errors(stage(code))
    assert time.monotonic() - begin < 30
    os.kill(int(pid), 9)


def test_progress_on_a_terminal_is_drawn_in_place(stage):
    terminal, console = pty.openpty()
    code = f"sys.stderr.write('1\\r2\\r'); print(sys.stderr.isatty(), file=sys.stderr); say({INFO!r})"
    subprocess.run(**stage(code), check=True, stderr=console)
    os.close(console)
    assert os.read(terminal, 1000) == b"1\r2\rTrue\r\n"


def test_what_is_no_stage_is_left_alone(tmp_path):
    command = [sys.executable, "-c", f"{HEAD}\nsay({INFO!r})"]
    assert errors({"args": command, "cwd": PROJECT}).strip() == INFO
