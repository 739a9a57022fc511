"""The origin of the variants: data set, backbone, and the models before conversion."""

import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bitlite.bit.weights import Architecture
from bitlite.workflow import metrics
from bitlite.workflow.errors import listed
from bitlite.workflow.metrics import ModelScores, PrunedScores
from bitlite.workflow.params import Params
from bitlite.workflow.paths import last_name

# For Git: all that stages do not write themselves.
INPUTS = ("--", ".", ":!dvc.lock", ":!metrics", ":!plots")


@dataclass(frozen=True)
class Origin:
    """Names from params.yaml as they may be published, and the models before conversion.

    labels: class names in the order of the outputs. image_size: height and width in pixels.
    pruned: the scores of every pruned model, by name of the pruning.
    revision: Git's of the code and the parameters, in words.
    """

    dataset: str
    backbone: str
    seed: int
    image_size: tuple[int, int]
    labels: tuple[str, ...]
    finetuned: ModelScores
    pruned: Mapping[str, ModelScores]
    revision: str


def read(params: Params, prunings: Iterable[str], finetuned: Architecture, directory: Path) -> Origin:
    """The origin, with the scores from `directory`/finetune.json and, of these `prunings`, /prune.

    Raises InputError as `metrics.read`.
    """
    return Origin(
        dataset=public(params.dataset.name),
        backbone=finetuned.name,
        seed=params.seed,
        image_size=finetuned.image_size,
        labels=finetuned.labels,
        finetuned=metrics.read(directory / "finetune.json", ModelScores),
        pruned={name: metrics.read(directory / "prune" / f"{name}.json", PrunedScores) for name in prunings},
        revision=revision(),
    )


def revision(folder: Path = Path()) -> str:
    """The commit that Git has checked out in `folder`, and what differs from it beside what stages write."""
    try:
        commit = _git("rev-parse", "HEAD", folder=folder).strip()
        changed = _git("status", "--porcelain", "-z", "--untracked-files=no", "--no-renames", *INPUTS, folder=folder)
    except (OSError, subprocess.CalledProcessError):
        return "not in Git"
    files = [entry[3:] for entry in changed.split("\0") if entry]
    return f"{commit}, and uncommitted changes in {listed(files)}" if files else commit


def _git(*arguments: str, folder: Path) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def public(dataset: str) -> str:
    """What may be published of `dataset.name`: of a folder its last name alone, not where it lies on this machine.

    Of a directory that TFDS prepared, whose last name is a version, the data set's name too.
    """
    folder = "/" in dataset or dataset.startswith("~")
    if not folder or not Path(dataset).is_dir() and _in_catalog(dataset):
        return dataset
    name = last_name(dataset)
    return f"{last_name(f'{dataset}/..')}:{name}" if re.fullmatch(r"\d+\.\d+\.\d+", name) else name


def _in_catalog(name: str) -> bool:
    """Whether this is a data set of TFDS with a configuration, such as imagenet_v2/topimages."""
    import tensorflow_datasets as tfds  # which takes a second to import, and most names do without

    return name.partition("/")[0] in tfds.list_builders(with_community_datasets=False)
