"""Arm's Ethos-U, as its compiler Vela reckons (PyPI: ethos-u-vela)."""

import csv
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ai_edge_litert.tools import flatbuffer_utils

from bitlite.where.answers import TOOLS, Unavailable, crashed, failed
from bitlite.workflow.params import Npu

# The operator that stands for all that the NPU runs.
ON_NPU = b"ethos-u"


def check(path: Path, npu: Npu) -> dict:
    """The fields npu_* of Places for this NPU. Raises Unavailable without Vela, RuntimeError if Vela fails."""
    if not find_spec("ethosu"):
        raise Unavailable(TOOLS)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "ethosu.vela", str(path.resolve()), "--output-dir", folder,
            "--config", "Arm/vela.ini", "--accelerator-config", npu.accelerator,
            "--system-config", npu.system_config, "--memory-mode", npu.memory_mode,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        if crashed(done):  # as it does on int4
            return {"npu_share": 0.0, "npu_cycles": None}
        if done.returncode:
            raise failed("Vela", path, done)
        (compiled,), (summary,) = Path(folder).glob("*.tflite"), Path(folder).glob("*_summary_*.csv")
        share = 1 - _on_cpu(compiled) / _on_cpu(path)
        with summary.open(newline="") as file:
            (row,) = csv.DictReader(file)
    return {"npu_share": share, "npu_cycles": int(float(row["cycles_total"])) if share else None}


def _on_cpu(path: Path) -> int:
    """Number of a file's operators that the NPU does not run."""
    model = flatbuffer_utils.read_model(str(path))
    return sum(model.operatorCodes[each.opcodeIndex].customCode != ON_NPU for each in model.subgraphs[0].operators)
