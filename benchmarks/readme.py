"""Bring README.md up to date: run its commands in a clean clone, and write its tables anew.

    python -m benchmarks.readme [tables]

tables: leave the commands out. Else every `$` line of a ```console block is run, in order, and what it prints replaces
what stands below it. The clone is of the last commit, with the outputs of its `dvc repro`.
"""

import ast
import csv
import graphlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from bitlite.report import noise, variants
from bitlite.report.places import PLACES, advice
from bitlite.tflite.schemes import SCHEMES
from bitlite.workflow.params import load

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
# What DVC says on the side, whatever its log level.
NOISE = re.compile(r"WARNING: No file hash")


def main(what: str = "") -> None:
    text = with_tables(README.read_text())
    README.write_text(text if what == "tables" else with_transcripts(text))


def with_tables(text: str) -> str:
    measured = [json.loads(path.read_text()) for path in (PROJECT / "metrics/benchmark").iterdir()]
    machines = sorted({f"{each['cpu']}, threads: {each['threads']}" for each in measured})
    text = between(text, "results", results(PROJECT / "plots/tradeoff.csv", machines))
    params = load(PROJECT / "params.yaml")
    right = noise.read(params.variants, PROJECT / "plots")
    comparison = variants.Comparison(variants.read(params.variants, PROJECT / "metrics"), params.compare, right)
    text = between(text, "where", where(comparison, "dense"))
    text = between(text, "stages", stages(PROJECT / "dvc.yaml"))
    text = between(text, "schemes", schemes())
    return between(text, "rooms", rooms(PROJECT / "bitlite"))


def with_transcripts(text: str) -> str:
    clone = Path(tempfile.mkdtemp()) / "clone"
    try:
        subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
        # What `dvc repro` has made already is in the cache.
        shutil.copytree(PROJECT / ".dvc/cache", clone / ".dvc/cache")
        run("dvc checkout --quiet", clone)
        return re.sub(r"(?<=```console\n).*?(?=```)", lambda block: transcript(block[0], clone), text, flags=re.DOTALL)
    finally:
        shutil.rmtree(clone.parent)


def between(text: str, name: str, content: str) -> str:
    """`text` with what stands between the comments of this name replaced."""
    return re.sub(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end of {name} -->)", lambda _: content, text, flags=re.DOTALL)


def results(tradeoff: Path, machines: list[str]) -> str:
    """The variants as a Markdown table, the selected one in bold, and below it what `machines` they were timed on."""
    lines = ["| variant | accuracy | agreement | size | gzip | latency |", "|---|--:|--:|--:|--:|--:|"]
    for row in csv.DictReader(tradeoff.read_text().splitlines()):
        size, gzip = (f"{int(row[key]) / 1e6:.2f} MB" for key in ("size_bytes", "gzip_bytes"))
        accuracy, agreement = (f"{float(row[key]):.1%}" for key in ("accuracy", "agreement"))
        cells = [row["variant"], accuracy, agreement, size, gzip, f"{float(row['latency_ms_p50']):.2f} ms"]
        mark = "**" if row["selected"] == "true" else ""
        lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |")
    return "\n".join([*lines, "", f"Timed on {' and '.join(machines)}.", ""])


def where(comparison: variants.Comparison, pruning: str) -> str:
    """What was found of this pruning's variants elsewhere as a Markdown table, and what of all to ship where."""
    header = ["variant", *(place.name for place in PLACES), "oldest runtime"]
    rows = [
        [variant.name, *(str(place.find(variant)) for place in PLACES), variant.oldest_runtime]
        for variant in comparison.variants
        if variant.pruning == pruning
    ]
    head, *body = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return "\n".join([head, "|---" * len(header) + "|", *body, "", advice(comparison), ""])


def stages(dvc_yaml: Path) -> str:
    """A Markdown table of the stages with their descs."""
    described = yaml.safe_load(dvc_yaml.read_text())["stages"].items()
    rows = [f"| {name} | {stage.get('do', stage)['desc']} |\n" for name, stage in described]
    return "".join(["| stage | does |\n", "|---|---|\n", *rows])


def schemes() -> str:
    """The schemes of quantization as a Markdown table."""
    rows = [
        f"| `{name}` | {each.weights} | {each.activations} | {each.pixels} | {each.tool} | {each.needs} |\n"
        for name, each in SCHEMES.items()
    ]
    return "".join(
        ["| scheme | weights | activations | pixels | made by | needs |\n", "|---|---|---|---|---|---|\n", *rows]
    )


def rooms(package: Path) -> str:
    """The rooms of `package` from top to bottom: their imports as a drawing, their docstrings as a Markdown table.

    An arrow is left out where others lead the same way.
    """
    below = {
        room.name: {
            name
            for module in room.glob("*.py")
            for name in re.findall(r"^ *from bitlite\.(\w+)", module.read_text(), re.MULTILINE)
        }
        - {room.name}
        for room in sorted(package.iterdir())
        if (room / "__init__.py").exists()
    }
    from_below = [*graphlib.TopologicalSorter(below).static_order()]
    reached = {}
    for room in from_below:
        reached[room] = below[room].union(*(reached[each] for each in below[room]))
    arrows = [
        f"    {room} --> {each}\n"
        for room in reversed(from_below)
        for each in sorted(below[room])
        if not any(each in reached[other] for other in below[room])
    ]
    rows = [
        f"| {room} | {ast.get_docstring(ast.parse((package / room / '__init__.py').read_text()))} |\n"
        for room in reversed(from_below)
    ]
    drawing = ["```mermaid\n", "flowchart TD\n", *arrows, "```\n"]
    return "".join([*drawing, "\n", "| room | holds |\n", "|---|---|\n", *rows])


def transcript(block: str, clone: Path) -> str:
    """The commands of a console block with what they print now."""
    lines = []
    for command in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
        print("$", command, flush=True)
        lines += [f"$ {command}", *(line for line in run(command, clone).splitlines() if not NOISE.match(line))]
        while "queue start" in command and re.search("Queued|Running", run("dvc queue status", clone)):
            time.sleep(5)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def run(command: str, clone: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "180", "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        command, shell=True, cwd=clone, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
