"""The files from which interrupted runs go on."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from bitlite.training.recipe import Recipe
from bitlite.workflow.files import read_npz, whole

# Folders of unfinished runs that stay: some may never be taken up again.
KEPT = 4


@dataclass
class Progress:
    """How far a training has come.

    done: steps. curve: its points so far, (step, values by name). recent: [loss, accuracy] of every step since the last
    point.
    """

    done: int = 0
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    recent: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """A folder in `directory` for each run, and in it a file for each of its trainings, one after the other.

    The file is written every so many `seconds` and when the training is done. A training goes on from its own file
    alone: of this run, recipe, seed, first weights, trained weights, teacher and precision. As a context the run lasts
    as long as the block, which writes what the trainings came to, and is removed when the block ends well; killed
    before, it goes on from there. Runs beside each other share the directory, which holds the last KEPT folders.
    identity: what tells the run from all others that share the directory: its data, and what params.yaml asks for.
    """

    directory: Path
    identity: str
    seconds: float = 60

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.remove()

    def fingerprint(
        self, recipe: Recipe, seed: int, model: tf.keras.Model, teacher: tf.keras.Model | None = None
    ) -> str:
        """Digest of everything that decides the outcome of a training which starts from `model`."""
        networks = [each for each in (model, teacher) if each]
        trained = [variable.name for variable in model.trainable_variables]
        precisions = [sorted({layer.compute_dtype for layer in each.layers}) for each in networks]
        digest = hashlib.sha256(repr((self.identity, recipe, seed, trained, precisions)).encode())
        for variable in (variable for each in networks for variable in each.weights):
            digest.update(variable.numpy().tobytes())
        return digest.hexdigest()

    def save(self, fingerprint: str, variables: Sequence[tf.Variable], progress: Progress) -> None:
        """Write the values of `variables` and the progress of the training that has this fingerprint."""
        state = json.dumps({"run": fingerprint, "done": progress.done, "curve": progress.curve})
        arrays = {f"variable{index}": variable.numpy() for index, variable in enumerate(variables)}
        # An equal run beside this one clears its scratch away, and writes the same.
        with suppress(FileNotFoundError), whole(self._file(fingerprint)) as temporary, temporary.open("wb") as file:
            np.savez(file, state=state, recent=np.reshape(progress.recent, (-1, 2)), **arrays)
        with suppress(FileNotFoundError):
            for folder in sorted(self.directory.iterdir(), key=os.path.getmtime)[:-KEPT]:
                shutil.rmtree(folder, ignore_errors=True)

    def restore(self, fingerprint: str, variables: Sequence[tf.Variable]) -> Progress:
        """The progress of the training that has this fingerprint, with `variables` set to its values.

        Without a file of that training, or if it is damaged or of another form, `variables` stay and there is no
        progress.
        """
        try:
            arrays = read_npz(self._file(fingerprint))
            state = json.loads(str(arrays["state"]))
            values = [arrays[f"variable{index}"] for index in range(len(variables))]
            progress = Progress(
                state["done"], [(at, dict(found)) for at, found in state["curve"]], list(arrays["recent"])
            )
            fits = [value.shape for value in values] == [tuple(variable.shape) for variable in variables]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return Progress()
        if state["run"] != fingerprint or not fits:
            return Progress()
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return progress

    def remove(self) -> None:
        """Remove the run's folder, if there is one."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # other runs have folders
            self.directory.rmdir()

    @property
    def _folder(self) -> Path:
        return self.directory / hashlib.sha256(self.identity.encode()).hexdigest()[:16]

    def _file(self, fingerprint: str) -> Path:
        return self._folder / f"{fingerprint[:16]}.npz"
