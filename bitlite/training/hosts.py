"""Hosts that train one model together: what the first of them tells the others, and what they do when one is gone."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

import numpy as np
import tensorflow as tf

from bitlite.workflow.errors import InputError

# Numbers of 8 bytes that are told at once: no message may have more than 2 GB.
AT_ONCE = 2**23

# What TensorFlow raises where hosts wait for one that is gone: nothing else here waits for another process.
GONE = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError, tf.errors.CancelledError)

Found = TypeVar("Found")
# The devices of all hosts that train together: what `step.strategy` gives.
Devices: TypeAlias = tf.distribute.Strategy


def first(devices: Devices) -> bool:
    """Whether this process is the first host of `devices`, or the only one: it keeps checkpoints and writes outputs.

    That is the chief, if TF_CONFIG names one, or else worker 0.
    """
    return devices.extended.should_checkpoint


@contextmanager
def together(devices: Devices, identity: str) -> Iterator[None]:
    """All hosts of `devices` do the block, and none ends it before the others.

    identity: what decides what the block comes to, such as params and data. Raises InputError if it isn't that of the
    first host, and on every host that is left when one is gone: at once if its process was killed, and otherwise once
    TensorFlow, which looks for hosts every few seconds, finds it silent.
    """
    try:
        if by_first(devices, lambda: identity) != identity:
            raise InputError(
                "this host is to do something else than the first one: give all hosts the same command, params.yaml "
                "and data/dataset"
            )
        yield
        by_first(devices, lambda: None)
    except GONE as error:
        raise InputError(
            "another host has ended or doesn't answer: run this again on all hosts, and training goes on from the "
            "first one's last checkpoint"
        ) from error


def by_first(devices: Devices, do: Callable[[], Found]) -> Found:
    """What `do` gives on the first host of `devices`, which alone calls it, on all of them.

    Every host must come here. In the scope of `devices` `do` must make no variables: those wait for all hosts.
    """
    if not isinstance(devices, tf.distribute.MultiWorkerMirroredStrategy):
        return do()
    # Whoever reaches the ports of TF_CONFIG can have TensorFlow run anything, so pickles add no danger.
    content = pickle.dumps(do()) if first(devices) else b""
    (size,) = _of_first(devices, np.array([len(content)]))
    numbers = np.zeros(-(-size // 8), np.int64)
    numbers.view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
    for start in range(0, len(numbers), AT_ONCE):
        numbers[start : start + AT_ONCE] = _of_first(devices, numbers[start : start + AT_ONCE])
    return pickle.loads(numbers.data)  # which ends where the pickle does


def _of_first(devices: Devices, numbers: np.ndarray) -> np.ndarray:
    """The `numbers` int64 [count] of the first host. Integers, since a sum of floats makes 0 of -0."""
    shares = devices.experimental_distribute_values_from_function(
        lambda device: tf.constant(numbers if device.replica_id_in_sync_group == 0 else np.zeros_like(numbers))
    )
    return devices.reduce("SUM", shares, axis=None).numpy()


def equalize(devices: Devices, variables: Sequence[tf.Variable]) -> None:
    """Give `variables` the values that they have on the first host of `devices`."""
    if isinstance(devices, tf.distribute.MultiWorkerMirroredStrategy):
        for variable in variables:
            variable.assign(by_first(devices, variable.numpy))
