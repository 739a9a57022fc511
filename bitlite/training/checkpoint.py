"""The files from which interrupted training runs go on."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from bitlite.training.recipe import Recipe
from bitlite.workflow.files import read_npz, remove, whole

# Files of unfinished runs that stay: some may never be taken up again.
KEPT = 4


@dataclass
class Progress:
    """How far a run has come.

    done: steps. curve: its points so far, (step, values by name). recent: [loss, accuracy] of every step since the last
    point.
    """

    done: int = 0
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    recent: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """A file in `directory` for each unfinished run, which is written every so many `seconds`.

    identity: digest of the data. A run goes on from its own file alone: of these data, recipe, seed, first weights,
    trained weights and precision. Runs beside each other share the directory; it holds the last KEPT files.
    """

    directory: Path
    identity: str
    seconds: float = 60

    def fingerprint(self, recipe: Recipe, seed: int, model: tf.keras.Model) -> str:
        """Digest of everything that decides the outcome of a run which starts from `model`."""
        trained = [variable.name for variable in model.trainable_variables]
        precisions = sorted({layer.compute_dtype for layer in model.layers})
        digest = hashlib.sha256(repr((self.identity, recipe, seed, trained, precisions)).encode())
        for variable in model.weights:
            digest.update(variable.numpy().tobytes())
        return digest.hexdigest()

    def save(self, fingerprint: str, variables: Sequence[tf.Variable], progress: Progress) -> None:
        """Write the values of `variables` and the progress of the run that has this fingerprint."""
        state = json.dumps({"run": fingerprint, "done": progress.done, "curve": progress.curve})
        arrays = {f"variable{index}": variable.numpy() for index, variable in enumerate(variables)}
        # An equal run beside this one clears its scratch away, and writes the same.
        with suppress(FileNotFoundError), whole(self._file(fingerprint)) as temporary, temporary.open("wb") as file:
            np.savez(file, state=state, recent=np.reshape(progress.recent, (-1, 2)), **arrays)
        with suppress(FileNotFoundError):
            for path in sorted(self.directory.glob("*.npz"), key=os.path.getmtime)[:-KEPT]:
                remove(path)

    def restore(self, fingerprint: str, variables: Sequence[tf.Variable]) -> Progress:
        """The progress of the run that has this fingerprint, with `variables` set to its values.

        Without a file of that run, or if it is damaged, `variables` stay and there is no progress.
        """
        try:
            arrays = read_npz(self._file(fingerprint))
            state = json.loads(str(arrays["state"]))
            if state["run"] != fingerprint:
                return Progress()
        except (OSError, ValueError, KeyError):
            return Progress()
        for index, variable in enumerate(variables):
            variable.assign(arrays[f"variable{index}"])
        return Progress(state["done"], [tuple(point) for point in state["curve"]], list(arrays["recent"]))

    def remove(self, fingerprint: str) -> None:
        """Remove the file of the run that has this fingerprint, if there is one."""
        with suppress(FileNotFoundError):
            remove(self._file(fingerprint))
        with suppress(OSError):  # other runs have files
            self.directory.rmdir()

    def _file(self, fingerprint: str) -> Path:
        return self.directory / f"{fingerprint[:16]}.npz"
