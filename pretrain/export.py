"""Write the pretrained trunk as bit-tiny.npz, and where it comes from as bit-tiny.json.

    PYTHONPATH=.. python export.py

params.yaml and restart/params.yaml, data/dataset, restart/models/finetuned -> bit-tiny.npz, bit-tiny.json. Weights are
stored as float16, and the accuracies given are those of the rounded weights.
"""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from stages.artifacts import FINETUNED, whole, write_json
from stages.bit import model, network, training
from stages.images import dataset
from stages.params import load
from stages.scores import accuracy


def main() -> None:
    rounds = [load(), load(Path("restart/params.yaml"))]
    source = tfds.builder(rounds[0].dataset.name)
    bit = model.load("restart" / FINETUNED)
    stored = {name: value.astype(np.float16) for name, value in bit.weights.items()}
    rounded = bit.with_weights({name: value.astype(np.float32) for name, value in stored.items()})
    keras_model = network.build(rounded)
    accuracies = {}
    for split in ("validation", "test"):
        images, labels = dataset.read(split, bit.architecture.image_size)
        accuracies[split] = accuracy(training.predict(keras_model, images), labels)

    with whole(Path("bit-tiny.npz")) as temporary:
        np.savez_compressed(temporary, **dict(sorted(stored.items())))
    write_json(
        Path("bit-tiny.json"),
        {
            "architecture": asdict(bit.architecture)
            | {"name": "bit-tiny", "parameters": bit.parameters, "macs": bit.macs},
            "dataset": {
                "name": source.name,
                "version": str(source.version),
                "images": {s: dataset.count(s) for s in dataset.SPLITS},
            },
            "rounds": [{"seed": each.seed, **each.finetune.model_dump()} for each in rounds],
            "accuracy": accuracies,
            "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "libraries": {name: version(name) for name in ("tensorflow", "tf-keras", "numpy", "pillow")},
        },
    )


if __name__ == "__main__":
    main()
