import pytest
import torch

from cases import SCHEDULES, grid, over
from denoiselab.analytic import Gaussian
from denoiselab.conditioning import Cond
from denoiselab.errors import ConfigError
from denoiselab.guidance import ClassifierFree
from denoiselab.schedules import like
from denoiselab.thresholding import Clip, Dynamic
from test_guidance import COND, NULL, GaussianOfClass

THRESHOLDS = {"clip": Clip(), "dynamic": Dynamic(0.9)}


@over("schedule", SCHEDULES)
@over("threshold", THRESHOLDS)
def test_after_limiting_x0_and_eps_still_make_up_x_t(schedule, threshold):
    schedule, t = SCHEDULES[schedule], grid(50)
    x_t = 3 * torch.randn(50, 4, dtype=torch.float64)
    x_t = x_t * schedule.prior_std
    x0, eps, _ = THRESHOLDS[threshold](Gaussian(schedule, std=3.0), schedule)(x_t, t)
    alpha, sigma = (like(part, x_t) for part in schedule(t))
    # Two roundings of numbers of the size of x_t.
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_t, rtol=0, atol=1e-15 * float(x_t.abs().max()))
    assert x0.abs().max() == 1


@over("schedule", SCHEDULES)
@over("threshold", THRESHOLDS)
def test_a_prediction_inside_the_range_is_left_as_it_is(schedule, threshold):
    schedule, t = SCHEDULES[schedule], grid(50)
    alpha, sigma = schedule(t)
    x_t = torch.sqrt(alpha**2 * 0.05**2 + sigma**2)[:, None] * torch.randn(50, 4, dtype=torch.float64)
    denoise = Gaussian(schedule, std=0.05)
    found, expected = THRESHOLDS[threshold](denoise, schedule)(x_t, t), denoise(x_t, t)
    assert torch.equal(found.x0, expected.x0)
    # (x_t - alpha x0)/sigma loses x_t's rounding over sigma, 1e-16/1e-3.
    torch.testing.assert_close(found.eps, expected.eps, rtol=0, atol=1e-12)


def test_the_range_is_the_one_asked_for():
    x0 = torch.tensor([-5.0, -0.5, 0.25, 5.0])
    assert torch.equal(Clip(-0.75, 0.5).limit(x0), torch.tensor([-0.75, -0.5, 0.25, 0.5]))
    assert torch.equal(Clip().limit(x0), torch.tensor([-1.0, -0.5, 0.25, 1.0]))


@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_guidance_comes_before_clipping(scale):
    # Clipping is not linear, so the order shows: the classes' means lie outside the range already.
    schedule, t, x_t = SCHEDULES["cosine"], grid(3, low=0.2, high=0.9), torch.zeros(3, 2, dtype=torch.float64)
    denoiser = GaussianOfClass(schedule)
    found = Clip()(ClassifierFree(scale)(denoiser, COND, NULL), schedule)(x_t, t).x0
    guided = denoiser(x_t, t, Cond(vector=NULL.vector + scale * (COND.vector - NULL.vector))).x0
    torch.testing.assert_close(found, guided.clamp(-1, 1), rtol=1e-13, atol=0)
    null, cond = (denoiser(x_t, t, c).x0.clamp(-1, 1) for c in (NULL, COND))
    assert not torch.allclose(found, null + scale * (cond - null))


def test_what_is_not_clipped_keeps_its_eps_to_the_last_bit():
    schedule = SCHEDULES["flow"]
    exact = Gaussian(schedule, std=0.1)
    x, t = 0.1 * torch.randn(50, 4), torch.full((50,), 1e-3, dtype=torch.float64)
    assert torch.equal(Clip(-9.0, 9.0)(exact, schedule)(x, t).eps, exact(x, t).eps)


def test_dynamic_takes_each_image_s_own_percentile_as_its_range():
    # |x0| is 0, 1, 2, 3, 4: the percentile 0.75 is 3; half of the way from 2 to 3 is 0.625.
    x0 = torch.tensor([[0.0, -1.0, 2.0, -3.0, 4.0], [0.0, -0.1, 0.2, -0.3, 4.0], [-0.1, 0.2, 0.0, 0.9, -0.8]])
    found = Dynamic(0.75).limit(x0)
    torch.testing.assert_close(found[0], torch.tensor([0.0, -1 / 3, 2 / 3, -1.0, 1.0]))
    assert torch.equal(found[1], torch.tensor([0.0, -0.1, 0.2, -0.3, 1.0]))  # the percentile is 0.3, and s is 1
    assert torch.equal(found[2], x0[2])
    torch.testing.assert_close(Dynamic(0.625).limit(x0)[0], torch.tensor([0.0, -0.4, 0.8, -1.0, 1.0]))


@pytest.mark.parametrize("percentile", [0.1, 0.5, 0.995, 1.0])
def test_the_percentile_is_torch_s_quantile(percentile):
    x0 = 3 * torch.randn(6, 3, 5, 7, dtype=torch.float64)
    s = x0.abs().flatten(1).quantile(percentile, dim=1).clamp(min=1)[:, None, None, None]
    torch.testing.assert_close(Dynamic(percentile).limit(x0), x0.clamp(-s, s) / s, rtol=1e-15, atol=0)


def test_the_dynamic_range_of_an_image_does_not_depend_on_its_batch():
    x0 = 3 * torch.randn(4, 2, 3)
    assert torch.equal(torch.cat([Dynamic(0.9).limit(image[None]) for image in x0]), Dynamic(0.9).limit(x0))


@pytest.mark.parametrize("percentile", [0.0, 1.1])
def test_a_percentile_that_is_none_is_refused(percentile):
    with pytest.raises(ConfigError, match=r"percentile must be above 0"):
        Dynamic(percentile)


def test_an_empty_range_is_refused():
    with pytest.raises(ConfigError, match="low must be below high"):
        Clip(2.0, 1.0)
