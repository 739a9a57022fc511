"""BiT to TensorFlow Lite, one room a folder: what the stages use."""

import bitlite.workflow.environment  # noqa: F401
