"""Where stages meet: the paths of their outputs, as dvc.yaml lists them."""

from pathlib import Path

# A variant's own files lie below these under its name.
DATASET = Path("data/dataset")
BACKBONE = Path("models/backbone")
FINETUNED = Path("models/finetuned")
# Where a fine-tuning that was interrupted stands.
INTERRUPTED = Path("models/.finetuning.npz")
PRUNED = Path("models/pruned")
TFLITE = Path("models/tflite")
RELEASE = Path("models/release")
METRICS = Path("metrics")
PLOTS = Path("plots")
# The class that the fine-tuned, unconverted model gives each test image.
FINETUNED_PREDICTIONS = PLOTS / "finetune" / "predictions.csv"
