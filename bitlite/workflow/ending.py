"""How a stage ends before its time: by Ctrl-C while it imports libraries, or with the DVC that runs it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Seconds between two looks at DVC, and those that an interrupted stage has to clean up.
LOOK, CLEAN_UP = 1, 5

INTERRUPTED = "interrupted: `dvc repro` goes on from here"


def end_imports_by_ctrl_c() -> None:
    """Until `main_begins`, Ctrl-C ends this process at once: libraries that are imported may swallow an exception."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may be ignored
        signal.signal(signal.SIGINT, _end)


def main_begins() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, as ever."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """In the block Ctrl-C ends this process at once: for libraries that wait where Python does not see it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(*_: object) -> None:
    print(INTERRUPTED, file=sys.stderr)
    os._exit(128 + signal.SIGINT)


def end_with_dvc() -> None:
    """Interrupt this process soon after the DVC that runs it as a stage has died, if one does.

    A DVC that is killed alone leaves its stage running, which would write over what a later run makes.
    """
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_watch, args=[os.getppid()], daemon=True).start()


def _watch(starter: int) -> None:
    import psutil  # only once Ctrl-C ends this process with a line: importing takes time

    with suppress(psutil.NoSuchProcess):
        # DVC starts a stage by a shell of the user's, which may or may not have become this process.
        parent = psutil.Process(starter)
        above = parent.parents()
        shell = Path(os.environ.get("SHELL") or "/bin/sh").name
        dvc = above[0] if parent.name() == shell and above else parent
        while os.getppid() == starter and dvc.status() != psutil.STATUS_ZOMBIE and dvc.is_running():
            time.sleep(LOOK)
    with suppress(OSError):  # nobody may be left to read it
        print("dvc has ended, and so does the stage that it ran", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(CLEAN_UP)
    os._exit(128 + signal.SIGINT)
