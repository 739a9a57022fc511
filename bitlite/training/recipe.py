"""The recipe of a training run, and the one for fine-tuning that params.yaml asks for."""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import cos, pi

from bitlite.images import dataset
from bitlite.training import hyperrule
from bitlite.workflow.params import Auto, Finetune, RateSchedule, Recovery

# In recovery `steps: auto` shows this share of the images that BiT-HyperRule shows, so that larger data sets get more:
# ten times all of CIFAR-10's.
RECOVERY_IMAGES = 0.1
# Over this share of the steps hints fall to 0: units can give what the answers need in other ways than the teacher's.
HINTED = 0.5


@dataclass(frozen=True)
class Recipe:
    """How to train. Sizes are sides of squares in pixels.

    An image is resized to `resize`, surrounded by `padding` grey pixels and cropped at random to `image_size`.
    The learning rate rises over `warmup` steps to `learning_rate`. From there, by `learning_rate_schedule`: hyperrule
    divides it by 10 at each of `decays`, cosine lets it fall to 0, constant keeps it.
    mixup: parameter of its beta distribution; 0 is none. optimizer: sgd (with momentum) or adam.
    distillation: share of the loss that follows a teacher's outputs rather than the labels, at `temperature` (Hinton et
    al., arXiv:1503.02531). The teacher sees what the student sees, mixup and all.
    hints: weight at the start of a further loss, by which the residual units' outputs follow the teacher's.
    batch_split: parts of a batch that a step computes one after the other; auto: as few as memory allows.
    """

    steps: int
    batch_size: int
    learning_rate: float
    resize: int
    image_size: int
    warmup: int
    decays: tuple[int, ...]
    learning_rate_schedule: RateSchedule = "hyperrule"
    padding: int = 0
    mixup: float = 0.0
    flip: bool = False
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    distillation: float = 0.0
    temperature: float = 1.0
    hints: float = 0.0
    batch_split: int | Auto = "auto"

    @property
    def has_teacher(self) -> bool:
        """Whether the loss needs a teacher."""
        return self.distillation > 0 or self.hints > 0

    @property
    def augments(self) -> bool:
        """Whether an image is another one each time it is shown."""
        return self.resize + 2 * self.padding > self.image_size or self.flip or self.mixup > 0


def finetuning_recipe(params: Finetune, *, image_area: int, examples: int) -> Recipe:
    """The recipe that `params` ask for, for so many training images of a median of `image_area` pixels.

    `auto` is BiT-HyperRule's value. Another number of steps than the rule's stretches its schedule.
    """
    rule = hyperrule.schedule(examples)
    rule_resize, rule_crop = hyperrule.resolution(image_area)
    image_size = _or(params.image_size, rule_crop)
    batch_size = _or(params.batch_size, hyperrule.BATCH_SIZE)
    return Recipe(
        **rule.stretched(_or(params.steps, rule.steps))._asdict(),
        batch_size=batch_size,
        learning_rate=_or(params.learning_rate, hyperrule.peak_rate(batch_size)),
        learning_rate_schedule=params.learning_rate_schedule,
        resize=_or(params.resize, image_size * rule_resize // rule_crop),
        image_size=image_size,
        padding=params.padding,
        mixup=_or(params.mixup, hyperrule.mixup(examples)),
        flip=params.flip,
        weight_decay=params.weight_decay,
        batch_split=params.batch_split,
    )


def finetuning_recipe_on_dataset(params: Finetune) -> Recipe:
    """The recipe that `params` ask for on the prepared data set."""
    # The rule alone asks for the size of every image, which takes seconds to read where there are many.
    area = dataset.median_area() if "auto" in (params.image_size, params.resize) else 0
    return finetuning_recipe(params, image_area=area, examples=dataset.count("train"))


def recovery_recipe(entry: Recovery, finetuning: Recipe, *, examples: int) -> Recipe:
    """The recipe by which a model recovers from `entry` that was fine-tuned by `finetuning`, on so many images.

    The entry says how long and how fast, how mixed and how padded; sizes of images, flips and weight decay are those of
    fine-tuning.
    """
    rule = hyperrule.schedule(examples)
    images = RECOVERY_IMAGES * rule.steps * hyperrule.BATCH_SIZE
    # However large the batches, every round recovers.
    steps = max(len(entry.cuts), round(images / entry.batch_size)) if entry.steps == "auto" else entry.steps
    return replace(
        finetuning,
        **rule.stretched(steps)._asdict(),
        **entry.model_dump(
            include={"batch_size", "learning_rate", "learning_rate_schedule", "distillation", "temperature", "hints"}
        ),
        padding=_or(entry.padding, finetuning.padding),
        mixup=_or(entry.mixup, finetuning.mixup),
        # Folding makes kernels some ten times larger but not gammas and betas: steps follow each weight's scale.
        optimizer="adam",
    )


def recovery_recipes(entry: Recovery, finetuning: Recipe, *, examples: int) -> list[Recipe]:
    """As `recovery_recipe`, for each of the entry's cuts: they share its steps, and each has the schedule anew."""
    steps, count = recovery_recipe(entry, finetuning, examples=examples).steps, len(entry.cuts)
    ends = [steps * number // count for number in range(count + 1)]
    return [
        recovery_recipe(entry.model_copy(update={"steps": end - start}), finetuning, examples=examples)
        for start, end in pairwise(ends)
    ]


def learning_rate(step: int, recipe: Recipe) -> float:
    """The learning rate of `step`, counted from 0.

    The published schedule without its own step 0, whose rate is 0. The cosine is that of Loshchilov & Hutter,
    arXiv:1608.03983, without restarts.
    """
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    match recipe.learning_rate_schedule:
        case "hyperrule":
            return recipe.learning_rate / 10 ** sum(step >= decay for decay in recipe.decays)
        case "cosine":
            angle = pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup)
            return recipe.learning_rate * (1 + cos(angle)) / 2
        case "constant":
            return recipe.learning_rate


def hints(step: int, recipe: Recipe) -> float:
    """The weight of the hints at `step`, counted from 0."""
    return recipe.hints * max(0.0, 1 - step / (HINTED * recipe.steps))


def _or(value, automatic):
    return automatic if value == "auto" else value
