"""Two hosts, each a process with a folder of its own, that train together on loopback."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitlite.bit.shapes import Shape
from bitlite.bit.weights import Bit, untrained
from bitlite.images import dataset
from bitlite.workflow.metrics import PrunedScores, read
from bitlite.workflow.paths import BACKBONE, DATASET, FINETUNED, METRICS, PLOTS, PRUNED
from stages import prune

ROOT = Path(__file__).parents[1]
PARAMS = """
seed: 3
dataset: {name: colours}
backbone: {name: small}
finetune: {steps: 16, batch_size: 12, learning_rate: 0.03, image_size: 16, resize: 18, mixup: 0.1, devices: all_hosts}
pruning:
  dense: {method: none}
  both:
    method: combine
    parts:
      - {method: channels, target_macs: 0.6, steps: 4, batch_size: 12, distillation: 0.5}
      - {method: magnitude, sparsity: 0.6, steps: 4, batch_size: 12}
"""
LABELS = ("red", "green", "blue")
# How long a host may take to notice that another is gone, start and training included.
PATIENCE = 400

# Before a stage: checkpoints every step, what is trained from, and an end as by the system at one step.
STAGE = """
import os, signal, sys
from bitlite.training import loop
from bitlite.training.checkpoint import Checkpoint
from bitlite.workflow import command
from stages import finetune, prune
Checkpoint.__init__.__defaults__ = (0,)
batches, dies_at = loop.batches, {dies_at}
def told(images, recipe, classes, seed, first):
    print("from step", first, flush=True)
    for step, batch in enumerate(batches(images, recipe, classes, seed, first), first):
        if step == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch
loop.batches = told
"""
# Beside what checkpoints lead to, what training comes to that nothing interrupts, on the same hosts.
UNBROKEN = """
import numpy as np
from bitlite.training import hosts
from bitlite.training.step import strategy
from bitlite.workflow.params import load
devices = strategy("all_hosts", 2)
finetune.strategy = lambda *_: devices
with hosts.together(devices, ""):
    np.savez("unbroken.npz", **finetune.finetuned(load(), devices).weights)
"""

PRUNE = """
import json
from bitlite.pruning import recovery
def cut(*_):
    raise AssertionError("only the first host cuts")
if json.loads(os.environ["TF_CONFIG"])["task"]["type"] == "worker":
    recovery.prune = recovery.once = cut
command.run(lambda: prune.main("both"))
"""


def examples(split):
    """Noise about a colour of the class."""
    random = np.random.default_rng(len(split))
    for index in range(24):
        pixels = np.clip(random.normal(70 + 110 * np.eye(3)[index % 3], 50, (20, 18, 3)), 0, 255).astype(np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "png")
        yield encoded.getvalue(), index % 3


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """One folder for each host: the first has the models, all have params.yaml and the data."""
    first, other = tmp_path / "first", tmp_path / "other"
    first.mkdir()
    monkeypatch.chdir(first)
    Path("params.yaml").write_text(PARAMS)
    dataset.write(DATASET, LABELS, {split: list(examples(split)) for split in dataset.SPLITS})
    shutil.copytree(first, other)
    shape = Shape(filters=16, units=(1,), groups=8, root=3, pool=False, image_size=(32, 32))
    untrained("small", shape, seed=0).save(BACKBONE)
    return first, other


def on_hosts(folders, code, dies_at=(None, None), roles=("worker", "worker")):
    """Exit codes, and standard output and error, of hosts that run `code` after STAGE, all at the same time."""
    with socket.socket() as one, socket.socket() as another:
        for each in (one, another):
            each.bind(("127.0.0.1", 0))
        addresses = ["{}:{}".format(*each.getsockname()) for each in (one, another)]
    cluster, tasks = {}, []
    for role, address in zip(roles, addresses, strict=True):
        cluster.setdefault(role, []).append(address)
        tasks.append({"type": role, "index": len(cluster[role]) - 1})
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STAGE.format(dies_at=step) + code],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CONFIG": json.dumps({"cluster": cluster, "task": task})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder, task, step in zip(folders, tasks, dies_at, strict=True)
    ]
    try:
        told = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], *zip(*told, strict=True)


def start(output):
    """The step from which the last training went on."""
    return int(output.split()[-1])


def test_hosts_that_die_and_come_back_go_on_to_what_unbroken_ones_come_to(folders):
    first, other = folders
    run = "command.run(finetune.main)"
    gone = "another host has ended or doesn't answer: run this again on all hosts"

    codes, _, errors = on_hosts(folders, run, dies_at=(None, 7))
    assert codes == [1, -9], errors
    assert errors[0].splitlines()[-1].startswith(gone)
    assert len(list(first.glob("models/.interrupted/*/*.npz"))) == 1

    codes, output, errors = on_hosts(folders, run, dies_at=(12, None))
    assert codes == [-9, 1], errors
    assert errors[1].splitlines()[-1].startswith(gone)
    assert 0 < start(output[0]) == start(output[1])

    assert not FINETUNED.exists()
    codes, output, errors = on_hosts(folders, f"{UNBROKEN}\n{run}")
    assert codes == [0, 0], errors
    assert 7 < start(output[0]) == start(output[1])
    for folder in folders:
        with np.load(folder / "unbroken.npz") as unbroken:
            weights = Bit.load(FINETUNED).weights
            assert unbroken.keys() == weights.keys()
            assert all(unbroken[name].tobytes() == value.tobytes() for name, value in weights.items())
    assert not Path("models/.interrupted").exists()
    assert not any((other / each).exists() for each in ("models", METRICS, PLOTS))


def test_hosts_recover_what_the_first_one_cuts(folders, tmp_path, monkeypatch):
    first, other = folders
    Bit.load(BACKBONE).with_head(LABELS, (16, 16)).save(FINETUNED)
    codes, _, errors = on_hosts(folders, PRUNE, roles=("chief", "worker"))
    assert codes == [0, 0], errors
    assert not any((other / each).exists() for each in ("models", METRICS, PLOTS))
    shutil.copytree(first, tmp_path / "alone")
    monkeypatch.chdir(tmp_path / "alone")
    Path("params.yaml").write_text(PARAMS.replace("all_hosts", "one"))
    prune.main("both")
    together, alone = (Bit.load(each / PRUNED / "both") for each in (first, Path()))
    assert together.architecture == alone.architecture
    assert together.macs == alone.macs < 0.7 * Bit.load(FINETUNED).macs
    assert all(np.abs(together.weights[name] - value).max() < 1e-4 for name, value in alone.weights.items())
    scores = [read(each / METRICS / "prune/both.json", PrunedScores) for each in (first, Path())]
    assert scores[0] == scores[1]


def test_hosts_that_are_not_to_do_the_same_are_told(folders):
    (folders[1] / "params.yaml").write_text(PARAMS.replace("learning_rate: 0.03", "learning_rate: 0.02"))
    codes, _, errors = on_hosts(folders, "command.run(finetune.main)")
    assert codes == [1, 1]
    assert "this host is to do something else than the first one" in errors[1]
    assert "another host has ended" in errors[0]


def test_ctrl_c_ends_a_host_that_waits_for_others(folders):
    cluster = {"worker": ["127.0.0.1:0", "127.0.0.1:1"]}  # where nobody answers
    config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CONFIG": config}
    command = [sys.executable, "-m", "stages.finetune"]
    with subprocess.Popen(command, cwd=folders[1], env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert any("waiting for the hosts that TF_CONFIG names" in line for line in process.stderr)
            time.sleep(3)  # by then it waits in TensorFlow's own code
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=5) == -signal.SIGINT
        finally:
            process.kill()
