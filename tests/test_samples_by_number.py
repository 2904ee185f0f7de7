"""Whatever is drawn or chosen for a sample follows from its number and the seed, in whatever company it is made.

Samples are made one by one, in threes, backwards, from the middle on, and twice in one batch; each is compared with the
sample of the same number in one large batch. In training the number is the place in the global batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_recipe, tiny_system
from denoiselab.codecs import Identity
from denoiselab.conditioning import (
    ClassLabel,
    Colourisation,
    Cond,
    Conditioner,
    Inpainting,
    Layout,
    LayoutChannels,
    Segmentation,
    Several,
    SuperResolution,
    Text,
    Unconditional,
    Wishes,
)
from denoiselab.conditioning.encoders import Words
from denoiselab.conditioning.wishes import numbered
from denoiselab.data import Composition
from denoiselab.denoiser import Denoiser
from denoiselab.inpainting import Inpainting as Filling
from denoiselab.inpainting import RePaint, Replacement
from denoiselab.objectives import Objective
from denoiselab.parameterizations import X0
from denoiselab.pipeline import Pipeline
from denoiselab.randomness import generator
from denoiselab.samplers import DDPM
from denoiselab.schedules import cosine
from denoiselab.spacings import Trailing
from denoiselab.time_sampling import Discrete, TimeSampler, Uniform
from denoiselab.training.system import DiffusionSystem

SOURCE = Composition(train=32, test=8, size=16)
SHAPE, CLASSES = SOURCE.shape, SOURCE.num_classes
NUMBERS = range(12)  # more than there are test images
COMPANIES: dict[str, Sequence[Sequence[int]]] = {
    "one by one": [[i] for i in NUMBERS],
    "in threes": [range(3), range(3, 6), range(6, 9), range(9, 12)],
    "backwards": [range(11, -1, -1)],
    "from the middle on": [range(5, 12)],
    "in no order and twice": [[7, 2, 7], [11, 0]],
}
MASKS = ("box", "brush", "half", "random", "mixed")


def text(route: str = "tokens") -> Text:
    return Text(SOURCE.class_names, partial(Words, width=8, depth=1, heads=2), route, dim=8, length=12, drop=0.4)


def inpainting(mask: str) -> Inpainting:
    return Inpainting(mask, SHAPE, SHAPE, drop=0.4)


CONDITIONERS: dict[str, Callable[[], Conditioner]] = {
    "none": Unconditional,
    "class": lambda: ClassLabel(CLASSES, dim=8, drop=0.4),
    "text": text,
    "text_vector": lambda: text("vector"),
    "super_resolution": lambda: SuperResolution(4, SHAPE, SHAPE, drop=0.4),
    "colourisation": lambda: Colourisation(SHAPE, SHAPE, drop=0.4),
    **{f"inpainting_{mask}": partial(inpainting, mask) for mask in MASKS},
    "layout": lambda: Layout(CLASSES, SHAPE, dim=8, drop=0.4),
    "layout_channels": lambda: LayoutChannels(CLASSES, SHAPE, SHAPE, drop=0.4),
    "segmentation": lambda: Segmentation(CLASSES, SHAPE, SHAPE, drop=0.4),
    "several": lambda: Several(
        drop=0.2,
        label=ClassLabel(CLASSES, dim=8, drop=0.4),
        text=text(),
        box=inpainting("box"),
        layout=Layout(CLASSES, SHAPE, dim=8, drop=0.4),
        second=inpainting("half"),
    ),
}
DRAWING = ["text", "text_vector", *(f"inpainting_{mask}" for mask in MASKS), "several"]
DROPPED = [name for name in CONDITIONERS if name != "none"]


def made(name: str) -> Conditioner:
    """No weight is 0."""
    torch.manual_seed(0)
    conditioner = CONDITIONERS[name]()
    for parameter in conditioner.parameters():
        nn.init.normal_(parameter, std=0.5)
    return conditioner


def rows(value: dict[str, Tensor] | Cond) -> list[Tensor]:
    """What is there of each sample, one row for each of them."""
    parts = list(value.values()) if isinstance(value, dict) else [part for part in value[:-1] if part is not None]
    return [part.detach() for part in parts]


def assert_follows_the_number(make: Callable[[Sequence[int]], list[Tensor]]) -> None:
    """To the rounding of float32, in which images come: matrix products of other sizes are summed in another order."""
    whole = make(list(NUMBERS))
    for company, batches in COMPANIES.items():
        for numbers in batches:
            for part, every in zip(make(numbers), whole, strict=True):
                torch.testing.assert_close(
                    part, every[list(numbers)], rtol=1e-6, atol=1e-6, msg=lambda text, c=company: f"{c}: {text}"
                )


# Requests and conditions


@pytest.mark.parametrize("name", CONDITIONERS)
@pytest.mark.parametrize("classes", [None, [4, 1, 7]], ids=["all classes", "three classes"])
def test_a_request_follows_from_the_samples_number(name, classes):
    for of_images in (False, True):
        wishes = Wishes(made(name), CLASSES, SOURCE.test, classes, of_images)
        assert_follows_the_number(lambda numbers, wishes=wishes: rows(wishes(numbers)))


@pytest.mark.parametrize("name", ["none", "class", "text"])
@pytest.mark.parametrize("classes", [None, [2, 0, 5]], ids=["all classes", "three classes"])
def test_a_request_without_images_follows_from_the_samples_number(name, classes):
    wishes = Wishes(made(name), CLASSES, classes=classes)
    assert_follows_the_number(lambda numbers: rows(wishes(numbers)))


@pytest.mark.parametrize("name", CONDITIONERS)
def test_a_condition_follows_from_the_samples_number(name, float64):
    """Its classes, captions, masks and boxes; also the empty condition, and those in between that guidance takes."""
    conditioner = made(name)
    wishes = Wishes(conditioner, CLASSES, SOURCE.test)

    def conditions(numbers: Sequence[int]) -> list[Tensor]:
        cond = conditioner(wishes(numbers))
        return [part for c in (cond, conditioner.null(cond), *conditioner.steps(cond)) for part in rows(c)]

    assert_follows_the_number(conditions)


@pytest.mark.parametrize("name", DRAWING)
def test_conditions_of_one_image_are_drawn_anew_for_each_number(name):
    conditioner = made(name)
    batch = {key: value.expand(40, *value.shape[1:]) for key, value in SOURCE.test.__getitems__([0]).items()}
    u = numbered(conditioner, batch, range(40))["u"]
    assert len(u.unique(dim=0)) == 40
    drawn = [part.reshape(40, -1) for part in rows(conditioner(batch | {"u": u}))]
    assert len(torch.cat(drawn, 1).unique(dim=0)) > 3  # "half" has four masks, and a class has some dozen captions


@pytest.mark.parametrize("name", DROPPED)
def test_a_condition_is_dropped_by_the_samples_own_coins(name, float64):
    conditioner, numbers = made(name), list(NUMBERS)
    batch = Wishes(conditioner, CLASSES, SOURCE.test)(numbers)
    u = torch.rand(len(numbers), conditioner.coins)

    def dropped(numbers: Sequence[int]) -> list[Tensor]:
        chosen = {key: value[list(numbers)] for key, value in batch.items()}
        return rows(conditioner.dropped(conditioner(chosen), u[list(numbers)]))

    assert_follows_the_number(dropped)
    kept = rows(conditioner(batch))
    changed = [(a != b).reshape(len(a), -1).any(1) for a, b in zip(dropped(numbers), kept, strict=True)]
    assert 0 < int(torch.stack(changed).any(0).sum()) < len(numbers), "some are dropped, others are kept"


# Generation


class ShowsCondition(nn.Module):
    """Stand-in for a trained network: adds the mean of all that it is given to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        total = self.scale * x_t
        if cond.vector is not None:
            total = total + 0.2 * cond.vector.mean(1)[:, None, None, None]
        if cond.tokens is not None:
            there = torch.ones_like(cond.tokens[..., 0]) if cond.mask is None else cond.mask
            total = total + 0.2 * (cond.tokens * there[..., None]).mean((1, 2))[:, None, None, None]
        if cond.concat is not None:
            total = total + 0.2 * cond.concat.mean(1, keepdim=True)
        return total


def showing(name: str) -> Pipeline:
    return Pipeline(Denoiser(ShowsCondition(), cosine(), X0()), made(name), Identity(), SHAPE)


def generated(
    pipeline: Pipeline, numbers: Sequence[int], seed: int = 0, fill: Filling | None = None, negative: bool = False
) -> tuple[Tensor, Tensor]:
    """The images, and what is shown of each beside it, from batches of five."""
    recipe = replace(tiny_recipe(DDPM(4, Trailing())), float64=True, inpainting=fill)
    asked = Wishes(pipeline.conditioner, CLASSES, SOURCE.test, of_images=fill is not None)
    against = Wishes(pipeline.conditioner, CLASSES, SOURCE.test, classes=[4, 1, 7]) if negative else None
    batches = list(pipeline.generate(recipe, numbers, asked, seed, batch_size=5, against=against))
    assert [i for batch in batches for i in batch.indices] == list(numbers)
    return torch.cat([batch.images for batch in batches]), torch.cat([pipeline.explained(batch) for batch in batches])


@pytest.mark.parametrize("name", CONDITIONERS)
def test_an_image_follows_from_the_samples_number(name, float64):
    pipeline = showing(name)
    assert_follows_the_number(lambda numbers: list(generated(pipeline, numbers)))


@pytest.mark.parametrize("name", ["class", "text", "several"])
def test_what_guidance_leads_away_from_follows_from_the_samples_number(name, float64):
    pipeline = showing(name)
    assert_follows_the_number(lambda numbers: list(generated(pipeline, numbers, negative=True)))
    assert not torch.equal(generated(pipeline, NUMBERS)[0], generated(pipeline, NUMBERS, negative=True)[0])


@pytest.mark.parametrize("name", ["none", "inpainting_box"])
@pytest.mark.parametrize("mask", MASKS)
def test_the_recipes_inpainting_mask_follows_from_the_samples_number(name, mask, float64):
    pipeline = showing(name)
    assert_follows_the_number(lambda numbers: list(generated(pipeline, numbers, fill=Replacement(mask))))


@pytest.mark.parametrize("fill", [Replacement("box"), RePaint("mixed", jump=2, resamples=2)], ids=["once", "repaint"])
def test_other_seeds_have_the_same_masks_and_other_noise(fill, float64):
    pipeline = showing("none")
    (images, shown), (others, other_shown) = (generated(pipeline, NUMBERS, seed, fill) for seed in (0, 1))
    assert torch.equal(shown[:, 0], other_shown[:, 0])
    assert len(shown[:, 0].flatten(1).unique(dim=0)) == len(NUMBERS)
    assert not (images == others).flatten(1).all(1).any()
    assert_follows_the_number(lambda numbers: list(generated(pipeline, numbers, 1, fill)))


# Training and validation


class Seen(Objective):
    """Keeps what it is given: x_0, the condition, times and noise."""

    names = ("loss",)

    def __init__(self, time_sampler: TimeSampler) -> None:
        super().__init__(time_sampler)
        self.seen: list[list[Tensor]] = []

    def figures(self, denoiser, x0, cond, t, eps):
        self.seen.append([x0.detach(), *rows(cond), t, eps])
        return {"loss": t}

    def last(self) -> list[Tensor]:
        return self.seen[-1]


def on_rank(system: DiffusionSystem, rank: int, ranks: int) -> DiffusionSystem:
    """Stand-in for a trainer, which says no more than where it runs."""
    system._trainer = SimpleNamespace(world_size=ranks, global_rank=rank)
    return system


def training(name: str, times: TimeSampler) -> tuple[DiffusionSystem, Seen]:
    objective = Seen(times)
    return tiny_system(showing(name), seed=3, objective=objective, flip=True), objective


@pytest.mark.parametrize("name", CONDITIONERS)
@pytest.mark.parametrize("times", [Uniform(stratified=True), Discrete(10)], ids=["stratified", "discrete"])
def test_what_training_draws_follows_from_the_place_in_the_global_batch(name, times, float64):
    """On one, two and four ranks: mirroring, masks, captions, dropped conditions, times and noise."""
    system, objective = training(name, times)
    numbers = list(range(16))
    on_rank(system, 0, 1).training_step(SOURCE.train.__getitems__(numbers), 5)
    whole = objective.last()
    for ranks in (2, 4):
        for rank in range(ranks):
            on_rank(system, rank, ranks).training_step(SOURCE.train.__getitems__(numbers[rank::ranks]), 5)
            for part, every in zip(objective.last(), whole, strict=True):
                torch.testing.assert_close(part, every[rank::ranks], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CONDITIONERS)
def test_a_training_step_draws_no_number_twice(name, monkeypatch, float64):
    """So dropped conditions are independent of masks, captions, mirroring, times and noise."""
    keys: list[tuple[int | str, ...]] = []
    drawn: list[Tensor] = []
    (system, _), draw = training(name, Uniform()), DiffusionSystem.drawn

    def noted(*key: int | str, **more: torch.device) -> torch.Generator:
        keys.append(key)
        return generator(*key, **more)

    def kept(*given: Any) -> Tensor:
        drawn.append(draw(*given))
        return drawn[-1]

    monkeypatch.setattr("denoiselab.training.system.generator", noted)
    monkeypatch.setattr(DiffusionSystem, "drawn", kept)
    on_rank(system, 0, 1).training_step(SOURCE.train.__getitems__(range(4)), 5)
    assert len(keys) == len(set(keys)), "no generator is started twice"
    uniform = torch.cat([part.flatten() for part in drawn[:-1]])  # all but the noise
    assert len(uniform.unique()) == len(uniform)


@pytest.mark.parametrize("name", DROPPED)
def test_training_drops_conditions_of_some_samples_and_of_others_at_the_next_step(name):
    system, objective = training(name, Uniform())
    conditioner, batch = on_rank(system, 0, 1).pipeline.conditioner, SOURCE.train.__getitems__([0] * 64)

    def dropped(batch_idx: int) -> Tensor:
        """Of images that are not mirrored, where nothing but noise and times is drawn else."""
        system.trained(batch | numbered(conditioner, batch, [0] * 64), batch_idx, generator(3, "train", batch_idx, 0))
        label = next(part for part in objective.last()[1:] if part.dtype == torch.int64)
        return label == -1

    first, second, again = dropped(0), dropped(1), dropped(0)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    chance = 0.2 + 0.8 * 0.4 if name == "several" else 0.4
    share = float(torch.cat([first, second]).double().mean())
    assert share == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 128) ** 0.5), "4 standard deviations"


@pytest.mark.parametrize("name", CONDITIONERS)
def test_what_validation_draws_follows_from_the_images_number(name, float64):
    """Masks, captions, times and noise."""
    system, objective = training(name, Uniform())
    images = SOURCE.train

    def drawn(numbers: Sequence[int]) -> list[Tensor]:
        system.validated(images.__getitems__(numbers) | {"index": torch.tensor(numbers)})
        return objective.last()

    assert_follows_the_number(drawn)
    assert len(drawn(NUMBERS)[-2].unique()) == len(NUMBERS), "each has a time of its own"
