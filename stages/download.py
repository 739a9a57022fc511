"""Fetch the data set and the backbone, each into one form whatever its source.

python -m stages.download dataset     params dataset -> data/dataset
python -m stages.download backbone    params backbone -> models/backbone

An interrupted download of a folder of images goes on with those that it has not looked at, or not written.
"""

from bitlite.workflow.command import run
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import load
from bitlite.workflow.paths import BACKBONE, interrupted_download


def main(part: str) -> None:
    params = load()
    # Each part imports its own room only: a change in the other does not run it again.
    if part == "dataset":
        from bitlite.sources.prepare import prepare

        prepare(params.dataset, interrupted=interrupted_download())
    elif part == "backbone":
        from bitlite.backbones.backbone import fetch

        fetch(params.backbone).save(BACKBONE)
    else:
        raise InputError(f"python -m stages.download {part}: allowed are dataset and backbone")


if __name__ == "__main__":
    run(main)
