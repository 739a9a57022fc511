"""What the command lines of ship have in common."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from bitlite.litert import metadata
from bitlite.workflow.environment import DEBUG_OPTION
from bitlite.workflow.errors import InputError, missing, printable
from bitlite.workflow.paths import RELEASE

MODEL = RELEASE / "model.tflite"


def parser(module: str, doc: str) -> argparse.ArgumentParser:
    """The command line of `python -m module`, whose help begins with the module's docstring."""
    command = argparse.ArgumentParser(
        f"python -m {module}", description=doc.strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # For the help alone: `run` takes it out.
    command.add_argument(DEBUG_OPTION, action="store_true", help="show tracebacks, and what libraries log")
    return command


def add_model(command: argparse.ArgumentParser) -> None:
    """Add --model, a file for `described`."""
    command.add_argument(
        "--model", type=Path, default=MODEL, metavar="FILE", help="a .tflite file with metadata (default: %(default)s)"
    )


def described(model: Path) -> metadata.Description:
    """What the file of --model says of itself. Raises InputError if it can't be read, or as metadata.described does."""
    try:
        return metadata.described(model)
    except OSError as error:
        unmade = model == MODEL and isinstance(error, FileNotFoundError)
        raise missing(model) if unmade else InputError(f"{model}: {error.strerror}") from error


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """The type of an option that is a whole number from `least` to `most`."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            end = "on" if most == math.inf else f"to {most}"
            raise argparse.ArgumentTypeError(f"{printable(text)} is no whole number from {least} {end}")
        return int(text)

    return number
