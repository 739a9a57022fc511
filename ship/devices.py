"""What timing on a phone and on a board have in common: which files, in which turns, and what becomes of the times."""

import argparse
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from bitlite.report.text import milliseconds, size
from bitlite.workflow import metrics
from bitlite.workflow.errors import InputError, listed, missing, one_line, printable
from bitlite.workflow.params import Params
from bitlite.workflow.paths import METRICS, TFLITE
from ship import options

DEVICES = METRICS / "devices"
# Turns of every variant, and what each lasts at least: short enough for a phone not to get warm in one.
ROUNDS, SECONDS = 5, 1.0


@dataclass(frozen=True)
class Refusal:
    """Why a file was not timed, in words for a line."""

    reason: str


def parser(module: str, doc: str) -> argparse.ArgumentParser:
    """The options that both commands have."""
    command = options.parser(module, doc)
    command.add_argument("--name", type=_folder, help="of the folder in metrics/devices (default: that of the device)")
    command.add_argument(
        "--threads", type=options.whole(1, 256), metavar="N", help="of LiteRT (default: benchmark.threads)"
    )
    command.add_argument(
        "--variants", nargs="+", metavar="P-Q", help="which (default: all of params.yaml that have a file)"
    )
    return command


def _folder(name: str) -> str:
    if not name or name != safe(name):
        raise argparse.ArgumentTypeError(f"{printable(name)} can't be a folder's name: try {safe(name) or 'phone'}")
    return name


def safe(name: str) -> str:
    """A name that any file system and shell takes, out of any other: Pixel 8 (Pro) becomes Pixel-8-Pro."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")


def files(params: Params, names: Iterable[str] | None) -> dict[str, Path]:
    """The .tflite file of each variant named, or of all that have one. Raises InputError if there is none."""
    if names:
        found = {params.variant(name): TFLITE / f"{name}.tflite" for name in names}
        for path in found.values():
            if not path.exists():
                raise missing(path)
        return found
    paths = {name: TFLITE / f"{name}.tflite" for name in params.variants}
    if absent := [name for name, path in paths.items() if not path.exists()]:
        print(f"no file yet, so left out: {listed(absent)}")
    if len(absent) == len(paths):
        raise missing(TFLITE)
    return {name: path for name, path in paths.items() if path.exists()}


def last_line(said: str, code: int) -> str:
    """What a command said last that failed with this exit code."""
    lines = [line for line in said.splitlines() if line.strip()]
    return printable(one_line(lines[-1])) if lines else f"exit code {code}"


def runs(params: Params) -> int:
    """Runs of each turn, so that the turns have those of params.yaml in all."""
    return -(-params.benchmark.runs // ROUNDS)


def collected(turns: Iterable[tuple[str, dict | Refusal]], count: int) -> dict[str, list[dict]]:
    """What the turns of each variant found, by the fields of its record. A Refusal is told at once.

    count: of the variants, for the progress. Variants with a Refusal are not in it.
    """
    found, refused = defaultdict(list), set()
    for variant, turn in tqdm(turns, "time", count * ROUNDS, leave=False, disable=None):
        if isinstance(turn, Refusal):
            tqdm.write(f"{variant}: {turn.reason}", file=sys.stderr)
            refused.add(variant)
        else:
            found[variant].append(turn)
    return {variant: turns for variant, turns in found.items() if variant not in refused}


def finish(name: str, files: Mapping[str, Path], found: dict[str, list[dict]], kind: type, **same: object) -> None:
    """Write the metrics, records of `kind`, and print them beside this machine's.

    same: fields of the record that are the same in all files. Raises InputError if a file was not timed.
    """
    records = {
        variant: kind(
            **{key: statistics.median(turn[key] for turn in found[variant]) for key in found[variant][0]}, **same
        )
        for variant in files
        if variant in found
    }
    for variant, record in records.items():
        metrics.write(DEVICES / name / f"{variant}.json", record)
    if records:
        print("\n".join(table(name, records, found)))
        print(f"written: {DEVICES / name}; dvc metrics show {DEVICES / name}")
    if untimed := len(files) - len(records):
        raise InputError(f"{untimed} of {len(files)} files were not timed: the reasons are above")


def table(name: str, records: Mapping[str, metrics.DeviceTiming], found: Mapping[str, list[dict]]) -> Iterator[str]:
    """Lines that set medians and memory on the device beside this machine's, with the range of the turns' medians."""
    some = next(iter(records.values()))
    yield f"{name}: {some.cpu}, threads: {some.threads}"
    here = {variant: _here(variant) for variant in records}
    if known := next(filter(None, here.values()), None):
        yield f"here: {known.cpu}, threads: {known.threads} (metrics/benchmark)"
    width = max(map(len, records))
    yield f"{'':{width}}  {'here':>10}  {name:>10}  {'its turns':>22}  {'memory':>8}"
    for variant, record in records.items():
        medians = [turn["latency_ms_p50"] for turn in found[variant]]
        home = here[variant]
        at_home = milliseconds(home.latency_ms_p50) if home else "-"
        spread = f"{milliseconds(min(medians))} to {milliseconds(max(medians))}"
        memory = size(record.peak_memory_mb * 1e6)
        latency = milliseconds(record.latency_ms_p50)
        yield f"{variant:{width}}  {at_home:>10}  {latency:>{max(10, len(name))}}  {spread:>22}  {memory:>8}"


def _here(variant: str) -> metrics.Timing | None:
    try:
        return metrics.read(METRICS / "benchmark" / f"{variant}.json", metrics.Timing)
    except InputError:
        return None
