"""Asking a place what it makes of a file, in a process of its own: some abort what they run in. No TensorFlow.

A module that can be asked calls `answer` when it is run as `python -m MODULE FILE FOLDER`, which `ask` does.
"""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import bitlite
from bitlite.workflow.files import read_npz

ROOT = Path(bitlite.__file__).parents[1]
IMAGES, ANSWER = "images.npy", "answer.npz"
# Exit code of a process in which the place refused the file.
REFUSED = 3
# Signals by which a program ends that a file brings down. Others come from elsewhere, such as when memory is short.
CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
# What to do about a tool that is missing.
TOOLS = "pip install -r requirements-where.txt"


class Unavailable(Exception):
    """This machine cannot check a place; the text says what would let it."""


class Answer(NamedTuple):
    # None if the place refused the file, by an error or by its process's death.
    arrays: dict[str, np.ndarray] | None
    # What the process wrote to standard error.
    log: str


def ask(module: str, path: Path, images: np.ndarray) -> Answer:
    """What `module` makes of the file at `path` and `images` uint8 [images, height, width, 3] in 0..255.

    Raises RuntimeError with the last lines of the log if the module itself failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, IMAGES), images)
        command = [sys.executable, "-m", module, str(path.resolve()), folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
        if done.returncode == 0:
            return Answer(read_npz(Path(folder, ANSWER)), done.stderr)
    if crashed(done) or done.returncode == REFUSED:
        return Answer(None, done.stderr)
    raise failed(module, path, done)


def crashed(done: subprocess.CompletedProcess) -> bool:
    """Whether a process died of what it ran."""
    return -done.returncode in CRASHES


def failed(tool: str, path: Path, done: subprocess.CompletedProcess) -> RuntimeError:
    """A tool's failure, which says nothing of the file, with the last lines of its log."""
    return RuntimeError(f"{tool} failed on {path}:\n" + "\n".join(done.stderr.splitlines()[-10:]))


def answer(run: Callable[[Path, np.ndarray], dict[str, np.ndarray]]) -> None:
    """Within the process: answer with the arrays that `run` returns; a RuntimeError is the place's refusal."""
    path, folder = map(Path, sys.argv[1:])
    try:
        np.savez(folder / ANSWER, allow_pickle=False, **run(path, np.load(folder / IMAGES)))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)


def agreement(outputs: np.ndarray, expected: np.ndarray) -> float:
    """Share of images, 0..1, whose highest output is the expected one; one that is not finite agrees with nothing.

    Both are of the shape [images, classes].
    """
    return float(np.mean((outputs.argmax(1) == expected.argmax(1)) & np.isfinite(outputs).all(1)))


def finite(value: float) -> float:
    """The value as JSON can hold it: what is not finite becomes float32's largest number."""
    largest = float(np.finfo(np.float32).max)
    return float(np.nan_to_num(value, nan=largest, posinf=largest))
