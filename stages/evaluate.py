"""Measure the accuracy and the size of a .tflite file, and try it in the other places where devices run it.

    python -m stages.evaluate P-Q

data/dataset, models/tflite/P-Q.tflite, plots/finetune/predictions.csv -> metrics/evaluate/P-Q.json,
metrics/where/P-Q.json, plots/evaluate/P-Q/predictions.csv.
"""

import gzip

from bitlite.images import dataset
from bitlite.litert import runtime
from bitlite.where import places
from bitlite.workflow import metrics, scores
from bitlite.workflow.command import run
from bitlite.workflow.files import read_csv, write_csv
from bitlite.workflow.params import load
from bitlite.workflow.paths import FINETUNED_PREDICTIONS, METRICS, PLOTS, TFLITE


def main(variant: str) -> None:
    params = load()
    path = TFLITE / f"{params.variant(variant)}.tflite"
    image_size = runtime.Classifier(path).image_size
    validation, validation_labels = dataset.read("validation", image_size)
    test, test_labels = dataset.read("test", image_size)
    logits = runtime.logits(path, test)

    predictions = list(scores.predictions(logits, test_labels, dataset.labels()))
    write_csv(PLOTS / "evaluate" / variant / "predictions.csv", scores.PREDICTION_COLUMNS, predictions)
    metrics.write(METRICS / "where" / f"{variant}.json", places.check(path, test, logits, params.where))
    content = path.read_bytes()
    metrics.write(
        METRICS / "evaluate" / f"{variant}.json",
        metrics.Evaluation(
            accuracy=scores.accuracy(logits, test_labels),
            top5_accuracy=scores.accuracy(logits, test_labels, k=5),
            validation_accuracy=scores.accuracy(runtime.logits(path, validation), validation_labels),
            agreement=scores.agreement(predictions, read_csv(FINETUNED_PREDICTIONS)),
            size_bytes=len(content),
            gzip_bytes=len(gzip.compress(content, compresslevel=9, mtime=0)),
            sparsity=runtime.sparsity(path),
        ),
    )


if __name__ == "__main__":
    run(main)
