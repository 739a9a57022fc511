"""Fine-tune the backbone on the data set by BiT-HyperRule.

    python -m stages.finetune

Params finetune, seed; data/dataset, models/backbone -> models/finetuned, metrics/finetune.json, plots/finetune/.
"""

from stages import run, scores
from stages.artifacts import BACKBONE, FINETUNED, FINETUNED_PREDICTIONS, METRICS, PLOTS, write_csv, write_json
from stages.bit import hyperrule, model, network, training
from stages.images import dataset
from stages.params import Finetune, load


def training_run(params: Finetune) -> tuple[hyperrule.Recipe, training.Images, training.Images]:
    """The recipe that `params` means for the prepared data set, and its images for training and validation."""
    recipe = hyperrule.recipe(params, image_area=dataset.median_area(), examples=dataset.count("train"))
    train, validation = (
        training.Images(*dataset.read(split, (side, side)))
        for split, side in (("train", recipe.resize), ("validation", recipe.image_size))
    )
    return recipe, train, validation


def main() -> None:
    params = load()
    labels = dataset.labels()
    recipe, train, validation = training_run(params.finetune)

    crop = (recipe.image_size, recipe.image_size)
    bit = model.with_head(model.load(BACKBONE), labels, crop)
    keras_model = network.build(bit)
    network.set_trainable(keras_model, params.finetune.trainable)
    curve = training.fit(keras_model, train, validation, recipe, seed=params.seed, desc="finetune")
    bit = bit.with_weights(network.get_weights(keras_model))

    test = training.Images(*dataset.read("test", crop))
    logits = training.predict(keras_model, test.pixels)
    model.save(bit, FINETUNED)
    write_csv(PLOTS / "finetune" / "training.csv", scores.CURVE_COLUMNS, curve)
    write_csv(FINETUNED_PREDICTIONS, scores.PREDICTION_COLUMNS, scores.predictions(logits, test.labels, labels))
    write_json(METRICS / "finetune.json", scores.of_model(bit, logits, test.labels))


if __name__ == "__main__":
    run(main)
