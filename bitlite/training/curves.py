"""The curves of a training run, as DVC shows them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvclive import Live
from scmrepo.exceptions import SCMError

from bitlite.training.loop import Log
from bitlite.workflow.errors import InputError


@contextmanager
def logged(directory: Path) -> Iterator[Log]:
    """A log that DVCLive writes to `directory`/plots/metrics/NAME.tsv.

    Raises InputError in a Git repository that has no commit yet.
    """
    try:
        live = Live(str(directory), save_dvc_exp=False, dvcyaml=None)
    except SCMError as error:
        raise InputError(
            f"DVCLive needs a Git repository with a commit ({error}): git commit, then run again"
        ) from error
    with live:

        def log(step: int, values: dict[str, float]) -> None:
            live.step = step
            for name, value in values.items():
                live.log_metric(name, value)

        yield log
