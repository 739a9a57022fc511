"""What of a workflow is finished, where `dvc repro --keep-going` could not do all."""

from collections.abc import Iterable

import networkx

from bitlite.workflow.errors import InputError

# What makes the files of a variant that are compared.
STAGES = ("convert", "evaluate", "benchmark")


def variants(names: Iterable[str]) -> list[str]:
    """Those of these variants whose stages are up to date by dvc.lock, and all stages that these depend on.

    Raises InputError while `dvc repro` runs.
    """
    from dvc.lock import LockError  # DVC takes half a second to import
    from dvc.repo import Repo

    try:
        with Repo() as repo, repo.lock:
            graph = repo.index.graph
            changed = {stage for stage in graph if not stage.always_changed and stage.changed()}
    except LockError as error:
        raise InputError("dvc is at work: wait until it has ended") from error
    # An edge leads from a stage to one that it depends on.
    stale = changed.union(*(networkx.ancestors(graph, stage) for stage in changed))
    done = {stage.addressing for stage in set(graph) - stale}
    return [name for name in names if all(f"{stage}@{name}" in done for stage in STAGES)]
