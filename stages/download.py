"""Fetch the data set and the backbone, each into one form whatever its source.

    python -m stages.download dataset     params dataset -> data/dataset
    python -m stages.download backbone    params backbone, seed -> models/backbone

The seed is for a backbone without weights of its own, which pretraining starts from.
"""

from stages import InputError, run
from stages.artifacts import BACKBONE
from stages.params import load


def main(part: str) -> None:
    params = load()
    if part == "dataset":
        from stages.images import sources

        sources.prepare(params.dataset)
    elif part == "backbone":
        from stages.bit import backbones, model

        model.save(backbones.fetch(params.backbone, seed=params.seed), BACKBONE)
    else:
        raise InputError(f"python -m stages.download {part}: allowed are dataset and backbone")


if __name__ == "__main__":
    run(main)
