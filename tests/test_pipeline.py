"""Sample i of a seed is one image, whatever is generated with it; the network is left as it was found."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_pipeline, tiny_recipe
from denoiselab.codecs import HasPrior, Identity
from denoiselab.conditioning import ClassLabel, Unconditional
from denoiselab.conditioning.wishes import balanced_labels
from denoiselab.data.source import to_uint8
from denoiselab.denoiser import Denoiser
from denoiselab.guidance import ClassifierFree, Unguided
from denoiselab.parameterizations import X0
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.samplers import DDIM, DDPM, Heun, Sampler
from denoiselab.schedules import cosine
from denoiselab.spacings import LogSNR, Trailing

SAMPLERS = {
    "ddim": DDIM(6, Trailing()),
    "ddim with eta": DDIM(6, Trailing(), eta=1.0),
    "ddpm": DDPM(8, Trailing()),
    "heun": Heun(4, LogSNR()),
}


class Recorder(Sampler):
    """Stand-in for a sampler: keeps the x_T that it is given."""

    def __init__(self) -> None:
        super().__init__(1, Trailing())

    def step(self, denoise, schedule, x, t, s, state, noise):
        self.x_T = x
        return x, None


class TellsCondition(nn.Module):
    """Stand-in for a trained network: paints the whole image in the condition's one number."""

    def forward(self, x_t: Tensor, t: Tensor, cond) -> Tensor:
        return cond.vector[:, :, None, None].expand_as(x_t)


class Negative(Identity):
    """Stand-in for a codec: latents are the negative of images."""

    def decode(self, latents: Tensor) -> Tensor:
        return -latents


class OwnPrior(Negative, HasPrior):
    """Stand-in for a codec whose latents are not standard normal."""

    def prior(self, noise: Tensor) -> Tensor:
        return noise.sign()


def images(pipeline: Pipeline, recipe: Recipe, indices, seed: int = 0, batch_size: int = 100) -> Tensor:
    """The images of the indices, by index, whatever the order they were made in."""
    labels = balanced_labels(indices, 3)
    made = list(pipeline.generate(recipe, indices, labels, seed, batch_size))
    rows = torch.cat([batch.images for batch in made])
    assert [i for batch in made for i in batch.indices] == list(indices)
    assert torch.equal(torch.cat([batch.labels for batch in made]), labels)
    return rows[torch.tensor(list(indices)).argsort()]


def modes(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


def test_the_starting_noise_of_a_sample_depends_on_its_seed_and_number_alone():
    def x_T(indices: list[int], seed: int = 7) -> Tensor:
        pipeline.sample(tiny_recipe(recorder), indices, balanced_labels(indices, 3), seed)
        return recorder.x_T

    pipeline, recorder = tiny_pipeline(), Recorder()
    whole = x_T(list(range(1000)))
    for indices in ([4], [3, 1], [999, 4, 0]):
        assert torch.equal(x_T(indices), whole[indices])
    assert not torch.equal(x_T([4], seed=8), whole[[4]])
    assert abs(whole.mean()) < 4 / 16_000**0.5, "and it is standard normal: 4 standard errors"
    assert abs(whole.var() - 1) < 4 * (2 / 16_000) ** 0.5


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("unet", [False, True], ids=["mlp", "unet"])
def test_images_do_not_depend_on_batch_size_order_or_company(sampler, unet):
    """At most one of 256 levels apart: matrix products of other shapes round differently, by some 1e-7 of a value, and
    a value that lies as near as that to the border between two levels is tipped over it."""
    pipeline, recipe = tiny_pipeline(unet=unet), tiny_recipe(sampler)
    whole = images(pipeline, recipe, range(10)).int()
    for indices, batch_size in ((range(10), 1), (range(10), 3), (range(9, -1, -1), 4), ([1, 3, 8], 2), ([9], 1)):
        part = images(pipeline, recipe, indices, batch_size=batch_size).int()
        apart = (part - whole[sorted(indices)]).abs()
        assert apart.max() <= 1
        assert (apart > 0).float().mean() < 0.01


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_images_are_equal_at_every_batch_size_in_float64(sampler, float64):
    """There rounding differs by 1e-16, and none of these pixels is as near to a border as that."""
    pipeline, recipe = tiny_pipeline(), tiny_recipe(sampler)
    whole = images(pipeline, recipe, range(10))
    assert torch.equal(images(pipeline, recipe, range(10), batch_size=3), whole)
    assert torch.equal(images(pipeline, recipe, [7, 2], batch_size=1), whole[[2, 7]])


def test_generating_again_gives_the_same_bits_whatever_was_drawn_from_torch_in_between():
    pipeline, recipe = tiny_pipeline(), tiny_recipe(SAMPLERS["ddpm"])
    first = images(pipeline, recipe, range(6))
    torch.randn(100)
    state = torch.get_rng_state()
    assert torch.equal(images(pipeline, recipe, range(6)), first)
    assert torch.equal(torch.get_rng_state(), state), "and torch's global generator is left alone"


def test_other_seeds_and_other_numbers_give_other_images():
    pipeline, recipe = tiny_pipeline(), tiny_recipe()
    both = torch.cat([images(pipeline, recipe, range(8), seed) for seed in (0, 1)]).flatten(1).tolist()
    assert len({tuple(image) for image in both}) == 16


def test_dropout_is_off_while_generating_and_on_again_afterwards():
    recipe = tiny_recipe()
    plain, dropping = tiny_pipeline(unet=True).eval(), tiny_pipeline(unet=True, dropout=0.5).train()
    assert torch.equal(images(dropping, recipe, range(4)), images(plain, recipe, range(4)))
    assert all(modes(dropping))
    assert not any(modes(plain))


def test_a_part_that_was_in_eval_mode_while_the_rest_trains_is_in_eval_mode_afterwards():
    pipeline = tiny_pipeline(unet=True).train()
    pipeline.codec.eval()  # as a frozen autoencoder is
    before = modes(pipeline)
    images(pipeline, tiny_recipe(), range(2))
    assert modes(pipeline) == before


def test_the_mode_comes_back_when_generating_is_given_up_or_fails():
    pipeline, labels = tiny_pipeline().train(), balanced_labels(range(4), 3)
    batches = pipeline.generate(tiny_recipe(), range(4), labels, 0, batch_size=1)
    next(batches)
    batches.close()
    assert pipeline.training
    with pytest.raises(IndexError):
        list(pipeline.generate(tiny_recipe(), range(4), labels + 100, 0, batch_size=1))
    assert pipeline.training


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [(DDIM(10, Trailing()), 10), (DDPM(10, Trailing()), 10), (Heun(5, LogSNR()), 9), (DDIM(1, Trailing()), 1)],
    ids=["ddim", "ddpm", "heun", "one step"],
)
@pytest.mark.parametrize("guidance", [Unguided(), ClassifierFree(1.5)], ids=["unguided", "cfg"])
def test_the_network_runs_as_often_as_is_told(sampler, evaluations, guidance):
    pipeline, runs = tiny_pipeline(), []
    pipeline.denoiser.backbone.register_forward_hook(lambda *_: runs.append(1))
    (batch,) = pipeline.generate(tiny_recipe(sampler, guidance), range(3), balanced_labels(range(3), 3), 0, 100)
    assert batch.evaluations == evaluations == len(runs)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
def test_a_sample_is_of_the_class_asked_for_and_guidance_moves_it_away_from_no_class(scale):
    """The network knows x0 whatever the noise, so the image is null + scale (class - null), in every pixel."""
    conditioner = ClassLabel(3, dim=1)
    levels = torch.tensor([[-0.5], [0.0], [0.25], [-0.1]])
    conditioner.embedding.weight.data.copy_(levels)
    pipeline = Pipeline(Denoiser(TellsCondition(), cosine(), X0()), conditioner, Identity(), (1, 4, 4))
    labels = torch.tensor([2, 0, 1, 2])
    (batch,) = pipeline.generate(tiny_recipe(guidance=ClassifierFree(scale), clip=False), range(4), labels, 0, 100)
    painted = to_uint8(levels[3] + scale * (levels[labels] - levels[3]))
    assert torch.equal(batch.images, painted[:, :, None, None].expand(-1, 1, 4, 4))


def test_a_model_without_classes_gives_the_same_images_whatever_the_labels():
    network = tiny_pipeline().denoiser
    network.backbone.embed.cond = None
    pipeline, recipe = Pipeline(network, Unconditional(), Identity(), (1, 4, 4)), tiny_recipe(guidance=Unguided())
    made = [next(pipeline.generate(recipe, range(3), torch.full((3,), k), 0, 3)).images for k in (0, 2)]
    assert torch.equal(*made)


def test_images_are_the_decoded_latents():
    plain, negative = tiny_pipeline(), tiny_pipeline(codec=Negative())
    assert torch.equal(images(negative, tiny_recipe(), range(5)), 255 - images(plain, tiny_recipe(), range(5)))


def test_sampling_starts_from_the_codecs_own_prior():
    plain, own = Recorder(), Recorder()
    images(tiny_pipeline(codec=Negative()), tiny_recipe(plain), range(3))
    images(tiny_pipeline(codec=OwnPrior()), tiny_recipe(own), range(3))
    assert torch.equal(own.x_T, plain.x_T.sign())


def test_whoever_watches_sees_each_step_once_and_the_image_last():
    pipeline, seen = tiny_pipeline().eval(), []
    made = pipeline.sample(
        tiny_recipe(SAMPLERS["heun"]), range(2), torch.zeros(2).long(), 0, lambda step, x: seen.append((step, x))
    )
    assert [step.index for step, _ in seen] == [0, 1, 2, 3]
    assert all(float(a.s) == float(b.t) for (a, _), (b, _) in pairwise(seen))
    last, prediction = seen[-1]
    assert float(last.s) == 0
    assert torch.equal(to_uint8(last.x), made.images)
    assert torch.equal(prediction.x0, last.x), "at time 0 the state is the predicted x0"


def test_balanced_labels_ask_for_each_class_equally_often_and_follow_the_samples_number():
    assert balanced_labels(range(7), 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert balanced_labels([5, 3, 1], 3).tolist() == [2, 0, 1]
    assert balanced_labels(range(3), 0).tolist() == [0, 0, 0], "no classes: 0 stands for none"


def test_a_state_in_float64_has_the_same_noise_and_differs_by_rounding_alone():
    pipeline, labels, seen = tiny_pipeline(), torch.zeros(4, dtype=torch.int64), {}
    for float64 in (False, True):
        recipe = replace(tiny_recipe(DDPM(10, Trailing())), float64=float64)
        states = []
        pipeline.sample(recipe, range(4), labels, 0, lambda step, _, kept=states: kept.append(step.x))
        seen[float64] = states
        assert states[0].dtype == (torch.float64 if float64 else torch.float32)
    for single, double in zip(seen[False], seen[True], strict=True):
        torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)  # ten steps of a float32 network
    assert not torch.equal(seen[False][-1].double(), seen[True][-1])
