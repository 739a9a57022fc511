"""Timing on a board, against a real OpenSSH server on loopback."""

import ast
import contextlib
import getpass
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from needed import missing

from bitlite.bit.shapes import Shape
from bitlite.bit.weights import untrained
from bitlite.litert.timing import at_least, forth_and_back, times
from bitlite.tflite import conversion
from bitlite.workflow import metrics
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Uncalibrated
from ship import board, devices

PROJECT = Path(__file__).parents[1]
PARAMS = """
dataset: {name: mnist5k}
backbone: {name: bit-tiny}
quantization:
  float32: {scheme: float32}
  dynamic: {scheme: dynamic}
benchmark: {threads: 2, warmup_runs: 3, runs: 40}
"""


def sshd():
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def server(folder):
    """The options to get to an OpenSSH server that takes one key. Temporary files there lie in folder/there."""
    for key in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    (folder / "there").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/key.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nSetEnv TMPDIR={folder}/there\n"
        # As where a login prints a greeting.
        'ForceCommand echo welcome; eval "$SSH_ORIGINAL_COMMAND"\n'
    )
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in, as a service makes it
    process = subprocess.Popen([sshd(), "-D", "-e", "-f", folder / "config"], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if "Server listening" in line:
                break
        else:
            pytest.fail(f"sshd did not start: {process.wait()}")
        yield [
            f"--ssh-option={each}"
            for each in (
                f"Port={port}",
                f"IdentityFile={folder}/key",
                f"UserKnownHostsFile={folder}/known",
                "BatchMode=yes",
            )
        ]
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture(scope="module")
def reached(tmp_path_factory):
    """The folder of a server and the options to get there."""
    if not sshd() or not shutil.which("ssh"):
        missing("OpenSSH's server is not here (Debian: openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    with server(folder) as options:
        yield folder, options


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    shape = Shape(filters=16, units=(1,), groups=8, root=3, pool=True, image_size=(16, 16))
    bit = untrained("bit-test", shape, seed=0).with_head(tuple("abc"), (16, 16)).folded()
    path = tmp_path_factory.mktemp("file") / "file.tflite"
    path.write_bytes(conversion.convert(bit, Uncalibrated(scheme="float32"), np.zeros((1, 16, 16, 3), np.uint8)))
    return path


@pytest.fixture
def project(tmp_path, file, monkeypatch):
    """A project with a file for each variant, that measures but for a moment; and a path with blanks to Python."""
    (tmp_path / "models/tflite").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text(PARAMS)
    for variant in ("dense-float32", "dense-dynamic"):
        shutil.copy(file, tmp_path / f"models/tflite/{variant}.tflite")
    python = tmp_path / "its python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "ROUNDS", 2)
    monkeypatch.setattr(devices, "SECONDS", 0)
    return tmp_path


HOST = f"{getpass.getuser()}@127.0.0.1"


def test_variants_are_timed_on_the_board(reached, project, capsys):
    folder, options = reached
    board.main(HOST, "--python", str(project / "its python"), *options)
    for variant in ("dense-float32", "dense-dynamic"):
        found = metrics.read(devices.DEVICES / "127.0.0.1" / f"{variant}.json", metrics.BoardTiming)
        assert 0 < found.latency_ms_p50 <= found.latency_ms_p90 <= found.latency_ms_p99 < 1000
        assert found.load_ms > 0 and found.first_inference_ms > 0 and found.peak_memory_mb > 0
        assert (found.threads, found.runtime.split()[0]) == (2, "ai-edge-litert")
    assert "dense-dynamic" in capsys.readouterr().out
    assert list((folder / "there").iterdir()) == []


def test_a_file_that_is_refused_there_does_not_stop_the_others(reached, project, capsys):
    (project / "models/tflite/dense-float32.tflite").write_bytes(b"no model")
    with pytest.raises(InputError, match="1 of 2 files were not timed"):
        board.main(HOST, "--python", str(project / "its python"), "--name", "ours", *reached[1])
    assert [path.name for path in (devices.DEVICES / "ours").iterdir()] == ["dense-dynamic.json"]
    told = capsys.readouterr().err
    assert told.count("dense-float32: ") == 1 and len(told.strip().splitlines()) == 1


def test_a_board_without_litert_is_told_what_to_install(reached, project):
    bare = project / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    with pytest.raises(InputError, match="^[^\n]*$") as error:
        board.main(HOST, "--python", str(bare / "bin/python"), *reached[1])
    assert f"'{bare}/bin/python -m pip install ai-edge-litert'" in str(error.value)
    assert not devices.DEVICES.exists()


def test_a_board_without_python_is_told(reached, project):
    with pytest.raises(InputError, match="^[^\n]* has no no python [^\n]*--python$"):
        board.main(HOST, "--python", "no python", *reached[1])


def test_a_board_that_does_not_answer_is_told_in_ssh_s_words(reached, project):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match="^ssh [^\n]*Connection refused$"):
            board.main(HOST, f"--ssh-option=Port={unused.getsockname()[1]}", *reached[1])


def test_a_key_that_the_board_does_not_take_is_told_in_ssh_s_words(reached, project):
    others = [each for each in reached[1] if "IdentityFile" not in each]
    with pytest.raises(InputError, match="^ssh [^\n]*Permission denied"):
        board.main(HOST, *others, f"--ssh-option=IdentityFile={reached[0]}/host", "--ssh-option=IdentitiesOnly=yes")


@pytest.mark.parametrize(
    "host",
    [
        "-oProxyCommand=touch x",
        "pi@-oProxyCommand=x",
        "-pi@board",
        "-board",
        "pi@-board",
        "a b",
        "$(touch x)",
        "pi@",
        "",
    ],
)
def test_what_is_no_host_never_gets_to_ssh(host, project, capsys):
    with pytest.raises(SystemExit) as end:
        board.main("--", host)
    assert end.value.code == 2
    assert "is no host" in capsys.readouterr().err
    assert not Path("x").exists()


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in Linux's /proc")
def test_an_interrupt_leaves_nothing_on_the_board_and_no_metrics(reached, project):
    folder, options = reached
    Path("params.yaml").write_text(PARAMS.replace("runs: 40", "runs: 1000000"))
    command = [sys.executable, "-m", "ship.board", HOST, "--python", project / "its python", *options]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            wait_for(lambda: timing(folder) or process.poll())
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[1] == "interrupted\n"
        finally:
            process.kill()
    assert process.returncode == 130
    wait_for(lambda: not timing(folder) and not list((folder / "there").iterdir()))
    assert not devices.DEVICES.exists()


def timing(folder):
    """Processes on the board that run a turn."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                Path(os.readlink(each / "cwd")).parent == folder / "there"
                and b"files/" in (each / "cmdline").read_bytes()
            ):
                found.append(each)
    return found


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_is_sent_imports_nothing_that_the_board_lacks():
    known = {*sys.stdlib_module_names, "numpy", "ai_edge_litert", *(module.__name__ for module in board.SENT)}
    for module in board.SENT:
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
            else:
                continue
            assert any(name in known or name.split(".")[0] in known for name in names), (module.__name__, names)


def test_times_are_those_of_the_runs_that_count(file):
    found = times(str(file), threads=1, warmup_runs=2, runs=7, seconds=0)
    assert found.latencies_ms.shape == (7,)
    assert all(np.array([found.load_ms, found.first_inference_ms, *found.latencies_ms]) > 0)
    assert len(times(str(file), threads=1, warmup_runs=0, runs=1, seconds=0.2).latencies_ms) > 1


def test_runs_go_on_for_the_number_and_for_the_time():
    assert list(at_least(5, 0)) == [0, 1, 2, 3, 4]
    start = time.monotonic()
    for _ in at_least(2, 0.1):
        time.sleep(0.01)
    assert 0.1 <= time.monotonic() - start < 5


def test_turns_go_forth_and_back_without_what_is_taken_out():
    names = ["a", "b", "c"]
    assert list(forth_and_back(names, 3)) == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]
    seen = []
    for name in forth_and_back(names, 2):
        seen.append(name)
        if name == "b":
            names.remove("b")
    assert seen == ["a", "b", "c", "c", "a"]


def test_params_go_to_the_board_as_they_are(project, monkeypatch):
    asked = {}

    def answers(host, python, options, files, job):
        asked.update(job, host=host, files=list(files))
        yield {"cpu": "", "runtime": ""}

    monkeypatch.setattr(board, "answers", answers)
    with pytest.raises(InputError, match="2 of 2 files were not timed"):
        board.main("pi@board", "--threads", "4")
    assert (asked["threads"], asked["warmup_runs"], asked["runs"], asked["rounds"]) == (4, 3, 20, 2)
    assert asked["variants"] == asked["files"] == ["dense-float32", "dense-dynamic"]
    assert json.dumps(asked)
