"""Check params.yaml against the data set and the backbone, before anything is trained.

    python -m stages.check

All of params.yaml; data/dataset, models/backbone -> data/.checked, which is the same for all that can be done.
Fine-tuning depends on it, so that what can't be pruned or quantized later costs no training.
"""

from pathlib import Path

from bitlite.bit.weights import Bit
from bitlite.images import dataset
from bitlite.pruning.rehearsal import rehearsed
from bitlite.tflite import calibration
from bitlite.training import limits
from bitlite.training.recipe import finetuning_recipe_on_dataset, recovery_recipe
from bitlite.workflow.command import run
from bitlite.workflow.errors import under
from bitlite.workflow.files import write_bytes
from bitlite.workflow.params import Calibrated, Int8Mixed, keyed, load
from bitlite.workflow.paths import BACKBONE

CHECKED = Path("data/.checked")


def main() -> None:
    params = load()
    images, labels, finetune = dataset.count("train"), dataset.labels(), params.finetune
    recipe = finetuning_recipe_on_dataset(finetune)
    bit = Bit.load(BACKBONE).with_head(labels, (recipe.image_size, recipe.image_size))
    devices = limits.replicas(finetune.devices)
    with under("finetune"):
        limits.check(recipe, bit, devices=devices, trainable=finetune.trainable)

    left = {}
    for name, entry in params.pruning.items():
        with under(f"pruning.{name}"):
            for key, part in keyed(entry):
                with under(key):
                    limits.check(recovery_recipe(part, recipe, examples=images), bit, devices=devices)
            left[name] = rehearsed(bit, entry)

    for name, scheme in params.quantization.items():
        with under(f"quantization.{name}"):
            if isinstance(scheme, Int8Mixed):
                for pruning, lasting in left.items():
                    sure = f"the convolutions that {pruning} is sure to have"
                    lasting.matching(scheme.keep_float, "keep_float", sure)
        if isinstance(scheme, Calibrated) and (told := calibration.shortfall(scheme, images, len(labels))):
            print(f"quantization.{name}.{told}")

    write_bytes(CHECKED, b"params.yaml fits data set and backbone\n")


if __name__ == "__main__":
    run(main)
