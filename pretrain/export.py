"""Write the pretrained network as bit-tiny.npz, and where it comes from as bit-tiny.json.

    PYTHONPATH=.. python export.py

params.yaml, data/dataset, models/finetuned, plots/finetune -> bit-tiny.npz, bit-tiny.json. Weights are stored as
float16, and the accuracies given are those of the rounded weights.
"""

import csv
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from bitlite.bit import network
from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.training.inference import predict
from bitlite.workflow.files import whole, write_json
from bitlite.workflow.params import load
from bitlite.workflow.paths import FINETUNED, PLOTS
from bitlite.workflow.scores import accuracy

CURVE = PLOTS / "finetune" / "plots" / "metrics" / "validation_accuracy.tsv"
LIBRARIES = ("tensorflow", "tf-keras", "numpy", "pillow")


def main() -> None:
    params = load()
    source = tfds.builder(params.dataset.name)
    bit = Bit.load(FINETUNED)
    stored = {name: value.astype(np.float16) for name, value in bit.weights.items()}
    rounded = bit.with_weights({name: value.astype(np.float32) for name, value in stored.items()})
    model = network.build(rounded)
    accuracies = {}
    for split in ("validation", "test"):
        images, labels = dataset.read(split, bit.architecture.image_size)
        accuracies[split] = accuracy(predict(model, images), labels)

    made = {
        "commit": commit(),
        "seed": params.seed,
        "recipe": params.finetune.model_dump(),
        "curve": curve(CURVE),
        "accuracy": accuracies,
        "architecture": asdict(bit.architecture) | {"name": "bit-tiny", "parameters": bit.parameters, "macs": bit.macs},
        "dataset": {
            "name": source.name,
            "version": str(source.version),
            "images": {split: dataset.count(split) for split in dataset.SPLITS},
        },
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    with whole(Path("bit-tiny.npz")) as temporary:
        np.savez_compressed(temporary, **dict(sorted(stored.items())))
    write_json(Path("bit-tiny.json"), made)


def commit() -> str:
    """The commit of the code that runs here. Exits if the code is another one than that commit's."""
    code = ["../bitlite", "../stages", "export.py", "params.yaml"]
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *code]).returncode:
        sys.exit("the code differs from the last commit, which bit-tiny.json is to name: commit it, then run again")
    return subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()


def curve(path: Path) -> list[dict[str, float]]:
    """Accuracy on validation by step, as DVCLive wrote it while training went on."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [{"step": int(row["step"]), "validation_accuracy": float(row["validation_accuracy"])} for row in rows]


if __name__ == "__main__":
    main()
