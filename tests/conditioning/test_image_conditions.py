import math

import pytest
import torch
from torch.nn import functional as nnf

from denoiselab import schedules
from denoiselab.backbones import UNet
from denoiselab.codecs import Codec, Identity
from denoiselab.conditioning import Colourisation, Inpainting, SuperResolution, Wishes
from denoiselab.conditioning.concat import folded
from denoiselab.conditioning.image import colourfulness, luma
from denoiselab.conditioning.wishes import numbered
from denoiselab.data.source import InMemory, psnr, to_float
from denoiselab.denoiser import Denoiser
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.guidance import ClassifierFree
from denoiselab.parameterizations import V
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.samplers import DDIM, DDPM, Heun
from denoiselab.spacings import LogSNR, Trailing
from denoiselab.thresholding import Clip

COLOUR, GREY = (3, 8, 8), (1, 8, 8)


def pictures(n=6, shape=COLOUR, seed=0):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, *shape), generator=rng).to(torch.uint8)
    return {"image": images, "label": torch.arange(n) % 3}


class Halved(Codec):
    """Stand-in for an autoencoder: means of 2 x 2 pixels, which lose what is finer."""

    def encode(self, images):
        return nnf.avg_pool2d(images, 2)

    def decode(self, latents):
        return latents.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def latent_shape(self, image_shape):
        return (image_shape[0], image_shape[1] // 2, image_shape[2] // 2)


def every(shape=COLOUR, latent=COLOUR, **more):
    return [
        SuperResolution(2, shape, latent, **more),
        Colourisation(shape, latent, **more),
        Inpainting("mixed", shape, latent, **more),
    ]


# What is told


def test_folding_is_a_permutation_that_keeps_neighbours_in_one_place():
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(folded(x, (4, 4, 6)), nnf.pixel_unshuffle(x, 2))
    assert torch.equal(folded(x, (4, 8, 12)), x)
    wide = folded(x, (4, 8, 4))  # three times as wide, as high
    assert wide.shape == (2, 9, 8, 4)
    assert torch.equal(wide[:, 1], x[:, 0, :, 1::3])
    with pytest.raises(IncompatibleError, match="8 x 12 pixels cannot be folded to 3 x 4"):
        folded(x, (4, 3, 4))


@pytest.mark.parametrize("latent", [(3, 8, 8), (4, 4, 4)])
def test_conditions_have_the_width_they_tell_and_the_size_of_x_t(latent):
    for conditioner in every(latent=latent):
        batch = numbered(conditioner, pictures(), range(6))
        told = conditioner(batch)
        assert told.concat.shape == (6, conditioner.routes.concat, *latent[1:])
        assert told.concat.abs().max() <= 1 + 1e-6
        assert torch.equal(told.label, batch["label"])
        assert conditioner.null(told).concat.shape == told.concat.shape
        assert (conditioner.null(told).label == -1).all()


def test_null_is_learned_or_zero_and_the_same_at_all_places():
    for conditioner in every():
        told = conditioner(numbered(conditioner, pictures(), range(6)))
        null = conditioner.null(told).concat
        assert (null == null[:1, :, :1, :1]).all()
        null.sum().backward()
        assert torch.equal(conditioner.nothing.grad, torch.full_like(conditioner.nothing, 6.0 * 64))
    for conditioner in (*every(null="zero"), *every(drop=0.0)):
        told = conditioner(numbered(conditioner, pictures(), range(6)))
        assert not conditioner.null(told).concat.any()
        assert not list(conditioner.parameters()), "nothing that training would never reach"


def test_each_sample_is_dropped_by_its_own_number():
    for conditioner in every(drop=0.5):
        told = conditioner(numbered(conditioner, pictures(), range(6)))
        dropped = conditioner.dropped(told, torch.tensor([0.0, 0.6, 0.4, 0.5, 0.9, 0.1]))
        null = conditioner.null(told)
        lost = (dropped.concat == null.concat).flatten(1).all(1)
        assert lost.tolist() == [True, False, True, False, False, True]
        assert torch.equal(dropped.concat[~lost], told.concat[~lost])
        assert dropped.label.tolist() == [-1, 1, -1, 0, 1, -1]


def test_super_resolution_tells_exact_means_in_the_places_they_are_of():
    images = pictures()
    conditioner = SuperResolution(4, COLOUR, COLOUR, enlarge="nearest")
    told = conditioner(images).concat
    means = to_float(images["image"]).double().unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean((3, 5))
    # Sixteen numbers of at most 1 in float32.
    torch.testing.assert_close(told[:, :, ::4, ::4].double(), means, rtol=0, atol=1e-6)
    assert torch.equal(told, told[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))
    even = {"image": torch.full((1, *COLOUR), 77, dtype=torch.uint8), "label": torch.zeros(1, dtype=torch.int64)}
    smooth = SuperResolution(4, COLOUR, COLOUR)
    torch.testing.assert_close(smooth(even).concat, to_float(even["image"]), rtol=0, atol=1e-6)
    assert not torch.equal(smooth(images).concat, told)


def test_grey_is_rec_601_luma_and_a_grey_image_has_its_own():
    pure = torch.eye(3)[:, :, None, None]
    assert luma(pure).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])
    grey = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(luma(grey.expand(2, 3, 4, 4)), grey, rtol=0, atol=1e-6)


def test_inpainting_tells_the_mask_and_nothing_of_what_is_unknown():
    conditioner, batch = Inpainting("mixed", COLOUR, (4, 4, 4)), pictures()
    batch = numbered(conditioner, batch, range(6))
    known = conditioner.kept(batch)
    hidden = batch | {"image": torch.where(known, batch["image"], 255 - batch["image"])}
    assert torch.equal(conditioner(batch).concat, conditioner(hidden).concat)
    assert not torch.equal(conditioner(batch).concat, conditioner(batch | {"u": batch["u"].flip(0)}).concat)
    plain = Inpainting("mixed", COLOUR, COLOUR)(batch).concat
    assert torch.equal(plain[:, 3:] > 0, known)
    assert torch.equal(plain[:, :3] * known, to_float(batch["image"]) * known)


# Figures and pictures


def test_a_perfect_sample_has_no_error_and_a_known_error_is_told_in_grey_levels():
    image = pictures()["image"] // 2 + 20  # room for 7 more
    for conditioner in every():
        batch = numbered(conditioner, {"image": image, "label": torch.zeros(6, dtype=torch.int64)}, range(6))
        perfect, brighter = (conditioner.judge(x, batch) for x in (image, image + 7))
        for name in ("consistency", "grey_error", "colour_error", "unknown_error", "known_error"):
            if name in perfect:
                assert perfect[name].tolist() == [0] * 6, name
                # float32 numbers of a few hundred
                torch.testing.assert_close(brighter[name].double(), torch.full((6,), 7.0).double(), rtol=0, atol=1e-4)
        assert all(figure.shape == (6,) and figure.isfinite().all() for figure in perfect.values())


def test_psnr_is_that_of_the_mean_square():
    image = torch.full((2, *GREY), 100, dtype=torch.uint8)
    other = torch.stack([image[0] + 10, image[1]])
    assert psnr(other, image).tolist() == pytest.approx([20 * math.log10(255 / 10), 100], rel=1e-6)


def test_colourfulness_is_0_of_grey_and_that_of_its_formula_else():
    grey = torch.full((1, *COLOUR), 90, dtype=torch.uint8)
    assert colourfulness(grey).item() == 0
    red = torch.zeros(1, *COLOUR, dtype=torch.uint8)
    red[:, 0] = 200  # R - G = 200 and (R + G)/2 - B = 100 everywhere
    assert colourfulness(red).item() == pytest.approx(0.3 * math.hypot(200, 100))
    red[:, 0, :4] = 0  # in half of the pixels: the standard deviations are 100 and 50, the means too
    assert colourfulness(red).item() == pytest.approx(1.3 * math.hypot(100, 50))


def test_what_was_told_is_shown():
    batch = pictures()
    small = SuperResolution(4, COLOUR, COLOUR).shown(batch)
    assert small.dtype == torch.uint8
    assert (small == small[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3)).all()
    grey = Colourisation(COLOUR, COLOUR).shown(batch)
    assert grey.shape == batch["image"].shape
    assert (grey == grey[:, :1]).all()
    part = Inpainting("half", COLOUR, COLOUR)
    batch = numbered(part, batch, range(6))
    known = part.kept(batch)
    assert torch.equal(part.shown(batch), torch.where(known, batch["image"], torch.full_like(batch["image"], 128)))


# Slips


def test_senseless_options_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"factor must be a divisor of the images' sides, .* take 2 or 4 or 8"):
        SuperResolution(3, COLOUR, COLOUR)
    with pytest.raises(ConfigError, match="enlarge must be nearest or bilinear"):
        SuperResolution(2, COLOUR, COLOUR, enlarge="cubic")
    with pytest.raises(IncompatibleError, match=r"these data have 1 channel; take data=composition"):
        Colourisation(GREY, GREY)
    with pytest.raises(ConfigError, match="null must be learned or zero"):
        Colourisation(COLOUR, COLOUR, null="none")
    with pytest.raises(IncompatibleError, match="data are points; take conditioning=none"):
        Inpainting("half", (2,), (2,))


# Samples


def pipeline(conditioner, codec, shape):
    latent = codec.latent_shape(shape)
    backbone = UNet(latent, 0, 8, [1], 1, [], 2, concat_dim=conditioner.routes.concat)
    made = Pipeline(Denoiser(backbone, schedules.cosine(), V()), conditioner, codec, shape)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("sampler", [DDIM(4, Trailing()), DDPM(4, Trailing()), Heun(3, LogSNR())])
@pytest.mark.parametrize("codec", [Identity(), Halved()], ids=["pixels", "latents"])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_known_pixels_of_a_sample_are_those_that_were_given(sampler, codec, scale):
    conditioner = Inpainting("mixed", GREY, codec.latent_shape(GREY))
    made = pipeline(conditioner, codec, GREY)
    test = InMemory(pictures(9, GREY)["image"], torch.arange(9) % 3)
    recipe = Recipe(sampler, ClassifierFree(scale), Clip())
    (batch,) = made.generate(recipe, range(9), Wishes(conditioner, 3, test), 0, 9)
    known = conditioner.kept(batch.asked)
    assert torch.equal(batch.images[known], batch.asked["image"][known])
    assert not torch.equal(batch.images[~known], test.images[~known])
    figures = conditioner.judge(batch.images, batch.asked)
    assert figures["known_error"].tolist() == [0] * 9
    assert (figures["unknown_error"] > 10).all()
    told = made.explained(batch)
    assert torch.equal(told[:, 1], batch.images)
    assert torch.equal(told[:, 2], batch.asked["image"])


def test_what_the_network_predicts_is_the_truth_where_it_is_known_and_x_t_is_made_of_both():
    conditioner = Inpainting("box", GREY, GREY)
    made = pipeline(conditioner, Identity(), GREY)
    batch = numbered(conditioner, pictures(5, GREY), range(5))
    known, truth = conditioner.kept(batch), to_float(batch["image"]).double()
    x_t, t = torch.randn(5, *GREY, dtype=torch.float64), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    with torch.no_grad():
        x0, eps, _ = made.denoise_fn(Recipe(DDIM(1, Trailing()), ClassifierFree(1.0)), batch)(x_t, t)
    assert torch.equal(x0[known].float(), truth[known].float())
    alpha, sigma = (part[:, None, None, None] for part in made.denoiser.schedule(t))
    # A float32 network within; the identity is in float64, but for the network's own rounding of x_t.
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_t, rtol=0, atol=1e-5)


def test_a_sample_depends_on_its_number_alone_and_so_does_its_mask():
    conditioner = Inpainting("mixed", GREY, GREY)
    made, test = pipeline(conditioner, Identity(), GREY), InMemory(pictures(4, GREY)["image"], torch.zeros(4).long())
    recipe, wishes = Recipe(DDIM(3, Trailing()), ClassifierFree(1.0), Clip()), Wishes(conditioner, 3, test)
    whole = torch.cat([b.images for b in made.generate(recipe, range(8), wishes, 0, 8)]).int()
    parts = torch.cat([b.images for b in made.generate(recipe, range(8), wishes, 0, 3)]).int()
    assert (whole - parts).abs().max() <= 1  # rounding may tip a grey level
    assert not torch.equal(conditioner.kept(wishes([1])), conditioner.kept(wishes([5]))), "one image, two masks"
