"""Where stages meet: the paths of their outputs, as dvc.yaml lists them."""

import os
from pathlib import Path
from urllib.parse import urlsplit

# A variant's own files lie below these under its name.
DATASET = Path("data/dataset")
BACKBONE = Path("models/backbone")
FINETUNED = Path("models/finetuned")
PRUNED = Path("models/pruned")
TFLITE = Path("models/tflite")
RELEASE = Path("models/release")
METRICS = Path("metrics")
PLOTS = Path("plots")
# The class that the fine-tuned, unconverted model gives each test image, and how sure it is.
FINETUNED_PREDICTIONS = PLOTS / "finetune" / "predictions.csv"


def project() -> Path:
    """The project's folder. DVC runs queued experiments, and those of --temp, in a copy of it below its own .dvc."""
    above = (folder.parent for folder in Path.cwd().parents if folder.name == ".dvc")
    return next((folder for folder in above if (folder / "dvc.yaml").is_file()), Path())


def linked_out() -> list[Path]:
    """Folders of outputs that DVC keeps and that lie outside of the Git repository, as links do that lead there.

    DVC refuses them, after the stage has run: it can't write to their .gitignore. Without Git it takes them.
    """
    repository = next((each for each in (Path.cwd(), *Path.cwd().parents) if (each / ".git").exists()), Path("/"))
    folders = (DATASET.parent, BACKBONE.parent, PRUNED, TFLITE)
    return [each for each in folders if not each.resolve().is_relative_to(repository.resolve())]


def found(path: str) -> Path:
    """What lies at `path`, where ~ is the home folder; a relative one is of this folder, or else of the project's."""
    try:
        given = Path(path).expanduser()
    except RuntimeError:  # there is no such user
        return Path(path)
    return given if os.path.exists(given) else project() / given


def last_name(path: str) -> str:
    """The last name of a path or an address, without where it lies, credentials and query: it may be published."""
    return Path(os.path.abspath(urlsplit(path).path if "://" in path else path)).name


def interrupted() -> Path:
    """The folder that tells where interrupted trainings stand: those of the project and of its experiments."""
    return project() / "models/.interrupted"


def interrupted_download() -> Path:
    """The folder that tells where an interrupted download of a data set stands, the project's or an experiment's."""
    return project() / "data/.interrupted"
