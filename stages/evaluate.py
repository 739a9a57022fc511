"""Measure what a .tflite file gets right, and how large it is.

    python -m stages.evaluate P-Q

data/dataset, models/tflite/P-Q.tflite, plots/finetune/predictions.csv -> metrics/evaluate/P-Q.json,
plots/evaluate/P-Q/predictions.csv.
"""

import gzip

import numpy as np

from bitlite.images import dataset
from bitlite.litert import runtime
from bitlite.workflow import scores
from bitlite.workflow.command import run
from bitlite.workflow.files import read_csv, write_csv, write_json
from bitlite.workflow.params import load
from bitlite.workflow.paths import FINETUNED_PREDICTIONS, METRICS, PLOTS, TFLITE


def main(variant: str) -> None:
    load()
    path = TFLITE / f"{variant}.tflite"
    classifier = runtime.Classifier(path)
    validation, validation_labels = dataset.read("validation", classifier.image_size)
    test, test_labels = dataset.read("test", classifier.image_size)
    logits = classifier.logits(test)

    predictions = list(scores.predictions(logits, test_labels, dataset.labels()))
    unconverted = read_csv(FINETUNED_PREDICTIONS)
    same = [row["predicted"] == other["predicted"] for row, other in zip(predictions, unconverted, strict=True)]
    write_csv(PLOTS / "evaluate" / variant / "predictions.csv", scores.PREDICTION_COLUMNS, predictions)
    content = path.read_bytes()
    write_json(
        METRICS / "evaluate" / f"{variant}.json",
        {
            "accuracy": scores.accuracy(logits, test_labels),
            "top5_accuracy": scores.accuracy(logits, test_labels, k=5),
            "validation_accuracy": scores.accuracy(classifier.logits(validation), validation_labels),
            "agreement": float(np.mean(same)),
            "size_bytes": len(content),
            "gzip_bytes": len(gzip.compress(content, compresslevel=9, mtime=0)),
            "sparsity": runtime.sparsity(path),
        },
    )


if __name__ == "__main__":
    run(main)
