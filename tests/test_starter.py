"""A stage ends soon after the DVC that runs it, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PROJECT = Path(__file__).parents[1]
# Runs a stage as DVC does.
DVC = """
import os, subprocess, sys
environment = {**os.environ, "DVC_STAGE": "wait", "SHELL": "/bin/sh"}
subprocess.Popen(["/bin/sh", "-c", sys.argv[1]], env=environment).communicate()
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
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()
    (tmp_path / "stages" / "wait.py").write_text(STAGE)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    dvc = subprocess.Popen(
        [sys.executable, "-c", DVC, command.replace("python", sys.executable, 1)],
        cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    started = tmp_path / "started"
    deadline = time.monotonic() + 30
    while not (started.exists() and started.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stage = psutil.Process(int(started.read_text()))
    time.sleep(1.5)
    assert stage.is_running() and not (tmp_path / "cleaned").exists()
    dvc.send_signal(end)
    gone, _ = psutil.wait_procs([stage], timeout=20)
    assert gone, "the stage has outlived its dvc"
    assert (tmp_path / "cleaned").exists()
    said = dvc.communicate()[1].splitlines()
    assert said[0] == "dvc has ended, and so does the stage that it ran"
    assert said[1:] == ([] if "deaf" in command else ["interrupted"])
