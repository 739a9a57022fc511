"""Time all variants on a board over ssh, in turns, and write what comes of it to metrics/devices/NAME.

    python -m ship.board pi@raspberrypi.local --python litert/bin/python

The board needs Python and its package ai-edge-litert. docs/devices.md tells what is measured.
"""

import argparse
import inspect
import io
import json
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from bitlite.litert import timing
from bitlite.profiling import machine
from bitlite.workflow.command import run
from bitlite.workflow.errors import InputError, printable
from bitlite.workflow.metrics import BoardTiming
from bitlite.workflow.params import load
from ship import devices, there

# The modules that the board gets, as they are. They import the standard library, NumPy, ai-edge-litert and each other.
SENT = (timing, machine, there)
# What the board runs first. It fails before anything large is sent if LiteRT is not there. When its input ends, nobody
# waits for it any more, and it ends what it started; the thread that watches for that must not use sys.stdin, which it
# would lock.
UNPACK = """
import os, shutil, signal, subprocess, sys, tarfile, tempfile, threading
import numpy, ai_edge_litert.interpreter
with tempfile.TemporaryDirectory(prefix="bitlite-") as folder:
    archive = tarfile.open(fileobj=sys.stdin.buffer, mode="r|")
    for member in archive:
        path = os.path.join(folder, member.name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            shutil.copyfileobj(archive.extractfile(member), file)
    command = [sys.executable, "-m", "ship.there", sys.argv[1]]
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True)
    def watch():
        while os.read(0, 4096):
            pass
        os.killpg(process.pid, signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
sys.exit(code)
"""
# Seconds after which a host that does not answer is given up, unless an option says otherwise.
CONNECT_TIMEOUT = 20


def main(*arguments: str) -> None:
    asked = parser().parse_args(arguments)
    if not shutil.which("ssh"):
        raise InputError("ssh is not here: install an OpenSSH client (Debian: openssh-client)")
    params = load()
    files = devices.files(params, asked.variants)
    name = asked.name or devices.safe(asked.host.rpartition("@")[2]) or "board"
    job = {
        "variants": list(files),
        "rounds": devices.ROUNDS,
        "threads": asked.threads or params.benchmark.threads,
        "warmup_runs": params.benchmark.warmup_runs,
        "runs": devices.runs(params),
        "seconds": devices.SECONDS,
    }
    print(f"sending {len(files)} files to {asked.host}", flush=True)
    lines = answers(asked.host, asked.python, asked.ssh_option, files, job)
    # `lines` ends early with an InputError, and so has a first one.
    about = next(lines)
    found = devices.collected(map(turn, lines), len(files))
    devices.finish(name, files, found, BoardTiming, threads=job["threads"], **about)


def parser() -> argparse.ArgumentParser:
    command = devices.parser("ship.board", __doc__)
    # The host comes first: variants are as many as follow.
    command.usage = "%(prog)s USER@HOST [options]"
    command.add_argument("host", metavar="USER@HOST", type=_host, help="as for ssh: an alias of ~/.ssh/config will do")
    command.add_argument(
        "--python",
        default="python3",
        metavar="PATH",
        help="there, from the home folder: venv/bin/python (default: python3)",
    )
    command.add_argument(
        "--ssh-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as after ssh's -o, such as Port=2222; may be given several times",
    )
    return command


def _host(text: str) -> str:
    # ssh would take the one for an option, and a shell may take the others apart.
    user, _, host = text.rpartition("@")
    if not host or host.startswith("-") or user.startswith("-") or not re.fullmatch(r"[\w.:%@+\[\]-]+", text):
        raise argparse.ArgumentTypeError(f"{printable(text)} is no host")
    return text


def turn(answer: dict) -> tuple[str, dict | devices.Refusal]:
    """A variant, and what its turn found."""
    variant = answer.pop("variant")
    return variant, devices.Refusal(printable(answer["refused"])) if "refused" in answer else answer


def answers(host: str, python: str, options: list[str], files: Mapping[str, Path], job: dict) -> Iterator[dict]:
    """What ship.there says on the board of these files. Raises InputError that says what failed there."""
    command = ["ssh", *(f"-o{each}" for each in options), f"-oConnectTimeout={CONNECT_TIMEOUT}", "--", host]
    # ssh starts in the home folder, where quoting would keep a shell from knowing what ~ is.
    command.append(shlex.join([python.removeprefix("~/"), "-c", UNPACK, json.dumps(job)]))
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints) as ssh,
    ):
        assert ssh.stdin and ssh.stdout, "they are pipes"
        answered = False
        try:
            with suppress(BrokenPipeError):  # a board that lacks something does not read to the end
                send(ssh.stdin, files)
            for line in ssh.stdout:
                if line.startswith(there.MARK.encode()):
                    answered = True
                    yield json.loads(line[len(there.MARK) :])
        except BaseException:
            ssh.terminate()
            raise
        finally:
            with suppress(BrokenPipeError):
                ssh.stdin.close()
        if ssh.wait() or not answered:
            complaints.seek(0)
            raise InputError(problem(host, python, options, ssh.wait(), complaints.read().decode(errors="replace")))


def send(stream, files: Mapping[str, Path]) -> None:
    """Write an archive of the code and the files to a stream, as UNPACK wants it. The stream stays open."""
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for module in SENT:
            *packages, name = module.__name__.split(".")
            for depth in range(len(packages)):
                # Empty, for those of the project import more; but without any, others of the name would go first.
                archive.addfile(tarfile.TarInfo("/".join([*packages[: depth + 1], "__init__.py"])), io.BytesIO())
            archive.add(inspect.getfile(module), "/".join([*packages, f"{name}.py"]))
        for variant, path in files.items():
            archive.add(path.resolve(), f"files/{variant}")
    stream.flush()


def problem(host: str, python: str, options: list[str], code: int, said: str) -> str:
    """Why it went wrong on the board, and what helps, by ssh's exit code and what was said there."""
    last = devices.last_line(said, code)
    if code == 255:
        return f"ssh {host}: {last}"
    if "No module named" in last:
        ssh = shlex.join(["ssh", *(f"-o{each}" for each in options), host, f"{python} -m pip install ai-edge-litert"])
        return f"{host} lacks ai-edge-litert for {python} ({last}): {ssh}, or in an environment (docs/devices.md)"
    if code in (126, 127):
        return f"{host} has no {python} ({last}): install Python there, or give its path by --python"
    return f"{host}: {last}"


if __name__ == "__main__":
    run(main)
