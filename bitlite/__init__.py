"""BiT to TensorFlow Lite, one room a folder: what the stages use."""

import os

# tfmot and TF Hub work with Keras 2 only (tfmot issue 1119), and TensorFlow picks Keras when it is first imported.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# TensorFlow's start-up notices would drown a stage's own progress; errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
