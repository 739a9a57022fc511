"""Compare the variants, choose the one to ship, and put it into models/release.

    python -m stages.compare

Params compare (and of the others those that the report names); metrics/finetune.json, metrics/prune/,
metrics/evaluate/, metrics/where/, metrics/benchmark/, plots/prune/, plots/convert/, plots/evaluate/, plots/benchmark/,
models/tflite/, models/finetuned/ -> metrics/summary.json, plots/tradeoff.csv, plots/tradeoff.png, report.html,
models/release/ (model.tflite, labels.txt, README.md).
"""

from pathlib import Path

from bitlite.bit.weights import Bit
from bitlite.report import layer_tables, origin, page, picture, places, release, steps, variants
from bitlite.workflow import metrics
from bitlite.workflow.command import run
from bitlite.workflow.errors import listed
from bitlite.workflow.files import read_csv, write_bytes, write_csv
from bitlite.workflow.params import load
from bitlite.workflow.paths import FINETUNED, METRICS, PLOTS, RELEASE, TFLITE


def main() -> None:
    params = load()
    comparison = variants.Comparison(variants.read(params.variants, METRICS), params.compare)
    finetuned = Bit.load(FINETUNED)
    made_from = origin.read(params, finetuned.architecture, METRICS)
    layers = layer_tables.read(params.variants, params.pruning, finetuned, PLOTS)
    searches = steps.read(params, PLOTS)
    selected = comparison.selected
    model = TFLITE / f"{selected.name}.tflite"
    predictions = read_csv(PLOTS / "evaluate" / selected.name / "predictions.csv")
    png = picture.tradeoff(comparison)
    curve = picture.searched(searches) if searches else b""
    html = page.report(comparison, made_from, layers, predictions, png, searches, curve)
    card = release.card(comparison, made_from, release.recipe(params, made_from, selected), model, len(predictions))

    release.write(RELEASE, model, made_from.labels, card)
    write_csv(PLOTS / "tradeoff.csv", variants.TRADEOFF_COLUMNS, variants.tradeoff_rows(comparison))
    write_bytes(PLOTS / "tradeoff.png", png)
    write_bytes(Path("report.html"), html.encode())
    metrics.write(METRICS / "summary.json", variants.summary(comparison))
    print(variants.table(comparison))
    if caution := places.caution(selected):
        print(caution)
    if left := variants.left_over(params.variants, METRICS):
        print(f"not compared, since params.yaml no longer asks for them: {listed(left)}")


if __name__ == "__main__":
    run(main)
