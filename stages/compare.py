"""Compare the variants, choose the one to ship, and put it into models/release.

    python -m stages.compare [unfinished]

Params compare (and all others, which the report names); metrics/finetune.json, metrics/prune/, metrics/evaluate/,
metrics/where/, metrics/benchmark/, plots/finetune/, plots/prune/, plots/convert/, plots/evaluate/, plots/benchmark/,
models/tflite/, models/finetuned/, data/dataset -> metrics/summary.json, plots/tradeoff.csv, plots/tradeoff.png,
report.html, models/release/ (model.tflite, labels.txt, README.md).

If no variant meets the constraints it says what each of them misses, writes report.html alone, and fails.
unfinished: of a workflow that `dvc repro --keep-going` could not finish it compares the variants that are up to date,
and writes report.html alone.
"""

from pathlib import Path

from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.report import (
    curves,
    finished,
    judged,
    layer_tables,
    mistakes,
    noise,
    origin,
    page,
    picture,
    places,
    release,
    steps,
    variants,
)
from bitlite.workflow import metrics
from bitlite.workflow.command import run
from bitlite.workflow.errors import InputError, listed
from bitlite.workflow.files import read_csv, write_bytes, write_csv
from bitlite.workflow.params import load
from bitlite.workflow.paths import FINETUNED, METRICS, PLOTS, RELEASE, TFLITE
from bitlite.workflow.scores import PREDICTION_COLUMNS

REPORT = Path("report.html")
UNFINISHED = "unfinished"


def main(extent: str = "") -> None:
    if extent not in ("", UNFINISHED):
        raise InputError(f"python -m stages.compare {extent}: allowed is {UNFINISHED}")
    params = load()
    names = finished.variants(params.variants) if extent else params.variants
    left_out = [name for name in params.variants if name not in names]
    if params.compare.baseline in left_out:
        raise InputError(f"compare.baseline is {params.compare.baseline}, which is not finished: run `dvc repro`")
    made_by = {name.partition("-")[0] for name in names}
    prunings = {name: entry for name, entry in params.pruning.items() if name in made_by}
    comparison = variants.Comparison(variants.read(names, METRICS), params.compare, noise.read(names, PLOTS))
    finetuned = Bit.load(FINETUNED)
    made_from = origin.read(params, prunings, finetuned.architecture, METRICS)
    foremost = PLOTS / "evaluate" / comparison.foremost.name
    predictions = read_csv(foremost / "predictions.csv", PREDICTION_COLUMNS)
    png = picture.tradeoff(comparison)
    searches = steps.read(names, params.quantization, PLOTS)
    html = page.report(
        comparison,
        made_from,
        layer_tables.read(names, prunings, finetuned, PLOTS),
        predictions,
        mistakes.worst(predictions, dataset.examples("test")),
        curves.read(prunings, PLOTS),
        release.published(params, made_from),
        judged.read(names, comparison.foremost.name, PLOTS),
        png,
        searches,
        picture.searched(searches) if searches else b"",
        left_out,
    )
    if not comparison.selected:
        # It shows what is missed, which the next choice of constraints needs.
        write_bytes(REPORT, html.encode())
        print(variants.misses_table(comparison))
        raise InputError(f"no variant meets all constraints: {variants.remedy(comparison)}; {REPORT} shows them all")

    if extent:
        write_bytes(REPORT, html.encode())
        print(variants.table(comparison))
        print(
            f"not finished: {listed(left_out)}" if left_out else "all variants are finished: `dvc repro` releases one"
        )
        return

    model = TFLITE / f"{comparison.selected.name}.tflite"
    recipe = release.recipe(params, made_from, comparison.selected)
    card = release.card(comparison, made_from, recipe, model, comparison.images)
    release.write(RELEASE, model, made_from.labels, card)
    write_csv(PLOTS / "tradeoff.csv", variants.TRADEOFF_COLUMNS, variants.tradeoff_rows(comparison))
    write_bytes(PLOTS / "tradeoff.png", png)
    write_bytes(REPORT, html.encode())
    metrics.write(METRICS / "summary.json", variants.summary(comparison))
    print(variants.table(comparison))
    if len(comparison.machines) > 1:
        print(f"latencies do not compare, since they come from different machines: {listed(comparison.machines)}")
    told = variants.ties(comparison), variants.unrest(comparison), places.caution(comparison.selected)
    for line in filter(None, told):
        print(line)
    if left := variants.left_over(names, METRICS):
        print(f"not compared, since params.yaml no longer asks for them: {listed(left)}")


if __name__ == "__main__":
    run(main)
