"""Before any test file imports TensorFlow: the package sets which Keras it is to bring."""

import signal

import bitlite  # noqa: F401

# A shell has what it runs in the background ignore SIGINT, and so all that this starts: then no test could send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
