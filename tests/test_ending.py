"""A stage ends soon after the DVC that runs it, however that ends, and by Ctrl-C at any time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bitlite.workflow.ending import INTERRUPTED

PROJECT = Path(__file__).parents[1]
# Runs a stage as DVC does.
DVC = """
import os, subprocess, sys
environment = {**os.environ, "DVC_STAGE": "wait", "SHELL": "/bin/sh"}
subprocess.Popen(["/bin/sh", "-c", sys.argv[1]], env=environment).communicate()
"""
IMPORTING = """
import bitlite
from pathlib import Path
import time
try:  # as some libraries have it
    Path("started").write_text(str(__import__("os").getpid()))
    time.sleep(60)
except:
    time.sleep(60)
"""
STAGE = """
import sys, time
from pathlib import Path
import bitlite
from bitlite.workflow import command

def main(deaf=""):
    try:
        Path("started").write_text(str(__import__("os").getpid()))
        time.sleep(60)
    except KeyboardInterrupt:
        Path("cleaned").touch()
        if deaf:
            time.sleep(60)
        raise
command.run(main)
"""


def started(folder: Path, stage: str, *command: str) -> tuple[subprocess.Popen, psutil.Process]:
    """A process of Python's that runs `command`, and the one of the stage `wait` in it, or itself, once that waits."""
    (folder / "stages").mkdir()
    (folder / "stages" / "__init__.py").touch()
    (folder / "stages" / "wait.py").write_text(stage)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    number = folder / "started"
    deadline = time.monotonic() + 30
    while not (number.exists() and number.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, psutil.Process(int(number.read_text()))


@pytest.mark.parametrize(
    ("command", "end"),
    [
        ("python -m stages.wait", signal.SIGKILL),
        ("python -m stages.wait", signal.SIGTERM),
        ("python -m stages.wait; true", signal.SIGKILL),  # which a shell does not become
        ("python -m stages.wait deaf", signal.SIGKILL),
    ],
)
def test_a_stage_ends_soon_after_its_dvc(tmp_path, command, end):
    dvc, stage = started(tmp_path, STAGE, "-c", DVC, command.replace("python", sys.executable, 1))
    time.sleep(1.5)
    assert stage.is_running() and not (tmp_path / "cleaned").exists()
    dvc.send_signal(end)
    gone, _ = psutil.wait_procs([stage], timeout=20)
    assert gone, "the stage has outlived its dvc"
    assert (tmp_path / "cleaned").exists()
    said = dvc.communicate()[1].splitlines()
    assert said[0] == "dvc has ended, and so does the stage that it ran"
    assert said[1:] == ([] if "deaf" in command else [INTERRUPTED])


@pytest.mark.parametrize("stage", [IMPORTING, STAGE], ids=["while it imports", "later"])
def test_ctrl_c_ends_a_stage_with_one_line(tmp_path, stage):
    process, _ = started(tmp_path, stage, "-m", "stages.wait")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=5)[1] == f"{INTERRUPTED}\n"
    assert process.returncode == 130
