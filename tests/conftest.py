"""Before any test file imports TensorFlow: the package sets which Keras it is to bring."""

import os
import signal
import sys

import bitlite  # noqa: F401

# A shell has what it runs in the background ignore SIGINT, and so all that this starts: then no test could send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Other processes compute on as many threads as this one does.
os.environ["TF_NUM_INTRAOP_THREADS"] = "2"


def pytest_collection_finish() -> None:
    """Take the threads of `finetune.threads`, which stages run in this process ask for: once it computes, it can't."""
    if "tensorflow" in sys.modules:
        from bitlite.training.step import strategy

        strategy("one", threads=2)
