"""Before any test file imports TensorFlow: the package sets which Keras it is to bring."""

import bitlite  # noqa: F401
