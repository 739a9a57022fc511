"""Measure the accuracy and the size of a .tflite file, and try it in the other places where devices run it.

    python -m stages.evaluate P-Q

data/dataset, models/tflite/P-Q.tflite, plots/finetune/predictions.csv -> metrics/evaluate/P-Q.json,
metrics/where/P-Q.json, and below plots/evaluate/P-Q/ predictions.csv, classes.csv, scores.csv.
"""

import gzip

from bitlite.images import dataset
from bitlite.litert import metadata, runtime
from bitlite.where import places
from bitlite.workflow import metrics, scores
from bitlite.workflow.command import run
from bitlite.workflow.errors import damaged
from bitlite.workflow.files import read_csv, write_csv
from bitlite.workflow.params import load
from bitlite.workflow.paths import FINETUNED_PREDICTIONS, METRICS, PLOTS, TFLITE


def main(variant: str) -> None:
    params = load()
    path = TFLITE / f"{params.variant(variant)}.tflite"
    names, plots = dataset.labels(), PLOTS / "evaluate" / variant
    image_size = runtime.Classifier(path).image_size
    validation, validation_labels = dataset.read("validation", image_size)
    test, test_labels = dataset.read("test", image_size)
    logits = runtime.logits(path, test)
    probabilities = logits if metadata.described(path).probabilities else scores.softmax(logits)

    unconverted = read_csv(FINETUNED_PREDICTIONS, scores.PREDICTION_COLUMNS)
    predictions = list(scores.predictions(probabilities, test_labels, names))
    if [row["actual"] for row in unconverted] != [row["actual"] for row in predictions]:
        raise damaged(FINETUNED_PREDICTIONS, "is of other test images")
    write_csv(plots / "predictions.csv", scores.PREDICTION_COLUMNS, predictions)
    write_csv(plots / "classes.csv", scores.CLASS_COLUMNS, scores.by_class(predictions, names))
    values = {
        "log_loss": scores.log_loss(probabilities, test_labels),
        "calibration_error": scores.calibration_error(probabilities, test_labels),
        "confidence_change": scores.confidence_change(predictions, unconverted),
    }
    rows = (dict(zip(scores.SCORE_COLUMNS, item, strict=True)) for item in values.items())
    write_csv(plots / "scores.csv", scores.SCORE_COLUMNS, rows)
    metrics.write(METRICS / "where" / f"{variant}.json", places.check(path, test, logits, params.where))
    content = path.read_bytes()
    metrics.write(
        METRICS / "evaluate" / f"{variant}.json",
        metrics.Evaluation(
            accuracy=scores.accuracy(logits, test_labels),
            top5_accuracy=scores.accuracy(logits, test_labels, k=5),
            validation_accuracy=scores.accuracy(runtime.logits(path, validation), validation_labels),
            agreement=scores.agreement(predictions, unconverted),
            size_bytes=len(content),
            gzip_bytes=len(gzip.compress(content, compresslevel=9, mtime=0)),
            sparsity=runtime.sparsity(path),
        ),
    )


if __name__ == "__main__":
    run(main)
