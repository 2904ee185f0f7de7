import pytest
import torch
from torch import nn

from cases import MEANINGLESS, PARAMETERIZATIONS, SCHEDULES, VP, WEIGHTINGS, grid, over, over_pairs
from denoiselab.conditioning import Cond
from denoiselab.denoiser import Denoiser
from denoiselab.errors import IncompatibleError
from denoiselab.objectives import WeightedMSE
from denoiselab.parameterizations import V
from denoiselab.schedules import Flow, like
from denoiselab.time_sampling import TimeSampler, Uniform
from denoiselab.weightings import VLB, MinSNR, Simple


class Wave(nn.Module):
    """Some function of x_t and t, in float64."""

    def forward(self, x_t, t, cond):
        return torch.sin(3 * x_t + like(t, x_t))


class ExactForGaussian(nn.Module):
    """The best F for data N(0, std^2), by any parameterization."""

    def __init__(self, schedule, parameterization, std):
        super().__init__()
        self.schedule, self.parameterization, self.std = schedule, parameterization, std

    def forward(self, x_t, t, cond):
        # F* is linear in (x0, eps), so the best F is the same form of E[x0|x_t] and E[eps|x_t].
        alpha, sigma = (like(part, x_t) for part in self.schedule(t))
        best = x_t / (alpha**2 * self.std**2 + sigma**2)
        return self.parameterization.target(alpha * self.std**2 * best, sigma * best, self.schedule, t)


def batch(n=64):
    return torch.randn(2, n, 3, 2, dtype=torch.float64)


@over_pairs()
@over("weighting", WEIGHTINGS)
def test_the_loss_is_the_weighted_eps_mse(schedule, parameterization, weighting):
    schedule, t = SCHEDULES[schedule], grid(64, low=0.01, high=0.88)
    weighting = WEIGHTINGS[weighting]
    denoiser = Denoiser(Wave(), schedule, PARAMETERIZATIONS[parameterization])
    x0, eps = batch()
    alpha, sigma = schedule(t)
    eps_hat = denoiser(like(alpha, x0) * x0 + like(sigma, x0) * eps, t).eps
    expected = weighting(schedule, t) * (eps_hat - eps).square().mean((1, 2))
    found = WeightedMSE(weighting, Uniform())(denoiser, x0, t=t, eps=eps)
    # eps_hat - eps cancels where the loss is small; in the output space nothing does.
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


@over("schedule", VP)
def test_with_v_prediction_the_eps_loss_weighs_v_by_snr_over_snr_plus_one(schedule):
    schedule, t = SCHEDULES[schedule], grid(200)
    found = WeightedMSE(Simple(), Uniform()).output_weight(schedule, V(), t)
    torch.testing.assert_close(found, schedule(t).alpha ** 2, rtol=1e-14, atol=0)


@over_pairs()
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_the_exact_denoiser_of_gaussian_data_has_the_loss_floor(schedule, parameterization, std):
    # The error is linear in (x0, eps), so the expected loss is that of (std, 0) plus that of (0, 1): nothing is drawn.
    parameterization_name, t = parameterization, grid(200, low=0.01)
    schedule, parameterization = SCHEDULES[schedule], PARAMETERIZATIONS[parameterization]
    denoiser = Denoiser(ExactForGaussian(schedule, parameterization, std), schedule, parameterization)
    loss = WeightedMSE(Simple(), Uniform())
    one, zero = torch.ones(200, 1, dtype=torch.float64), torch.zeros(200, 1, dtype=torch.float64)
    found = loss(denoiser, std * one, t=t, eps=zero) + loss(denoiser, zero, t=t, eps=one)
    alpha, sigma = schedule(t)
    variance = alpha**2 * std**2 + sigma**2
    # Against each other in absolute terms: both are below 1, and at alpha = 0 both are 0.
    torch.testing.assert_close(found, alpha**2 * std**2 / variance, rtol=1e-10, atol=1e-15)
    floors = {"eps": alpha**2 * std**2, "x0": std**2 * sigma**2, "v": std**2 * (alpha**2 + sigma**2) ** 2}
    inside = alpha > 0  # elsewhere the eps-MSE has no weight on F
    torch.testing.assert_close(
        (found / loss.output_weight(schedule, parameterization, t))[inside],
        (floors[parameterization_name] / variance)[inside],
        rtol=1e-10,
        atol=0,
    )


def test_no_linear_denoiser_beats_the_floor():
    schedule, t = SCHEDULES["cosine"], grid(20, low=0.05, high=0.95)
    one, zero = torch.ones(20, 1, dtype=torch.float64), torch.zeros(20, 1, dtype=torch.float64)
    loss = WeightedMSE(Simple(), Uniform())

    def expected(std):
        denoiser = Denoiser(ExactForGaussian(schedule, V(), std), schedule, V())
        return loss(denoiser, one, t=t, eps=zero) + loss(denoiser, zero, t=t, eps=one)

    assert (expected(1.0) < expected(0.9)).all()
    assert (expected(1.0) < expected(1.1)).all()


@over("schedule", SCHEDULES)
@over("weighting", WEIGHTINGS)
def test_the_loss_of_a_sample_is_its_own(schedule, weighting):
    schedule, t = SCHEDULES[schedule], grid(5, low=0.1, high=0.9)
    objective, denoiser = WeightedMSE(WEIGHTINGS[weighting], Uniform()), Denoiser(Wave(), schedule, V())
    x0, eps = batch(5)
    whole = objective(denoiser, x0, t=t, eps=eps)
    alone = [objective(denoiser, x0[i : i + 1], t=t[i : i + 1], eps=eps[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-14, atol=0)


def test_the_loss_is_a_mean_over_an_image_s_dimensions():
    # Trap 6: with a sum, an image of twice the pixels would have twice the loss.
    objective, denoiser = WeightedMSE(Simple(), Uniform()), Denoiser(Wave(), SCHEDULES["cosine"], V())
    (x0, eps), t = batch(5), grid(5)
    twice = objective(denoiser, torch.cat([x0, x0], 1), t=t, eps=torch.cat([eps, eps], 1))
    torch.testing.assert_close(twice, objective(denoiser, x0, t=t, eps=eps), rtol=1e-14, atol=0)


def test_times_not_given_come_from_the_time_sampler():
    class Chosen(TimeSampler):
        def __call__(self, n, generator=None):
            return grid(n, low=0.2)

    objective, denoiser = WeightedMSE(Simple(), Chosen()), Denoiser(Wave(), SCHEDULES["cosine"], V())
    x0, eps = batch(5)
    assert torch.equal(objective(denoiser, x0, eps=eps), objective(denoiser, x0, t=grid(5, low=0.2), eps=eps))


def test_eps_not_given_is_standard_normal():
    class Nothing(nn.Module):
        def forward(self, x_t, t, cond):
            return torch.zeros_like(x_t)

    denoiser = Denoiser(Nothing(), SCHEDULES["cosine"], PARAMETERIZATIONS["eps"])
    losses = WeightedMSE(Simple(), Uniform())(denoiser, torch.zeros(20_000, 4))
    # The loss is the mean of 4 squares of eps: chi-squared/4, of mean 1 and variance 1/2.
    assert losses.shape == (20_000,)
    assert float(losses.mean()) == pytest.approx(1, abs=4 * (0.5 / 20_000) ** 0.5)
    assert float(losses.var()) == pytest.approx(0.5, abs=0.05)


def test_the_condition_reaches_the_network():
    class Told(nn.Module):
        def forward(self, x_t, t, cond):
            return cond.vector.expand_as(x_t)

    denoiser, x0 = Denoiser(Told(), SCHEDULES["cosine"], PARAMETERIZATIONS["x0"]), torch.randn(6, 1)
    loss = WeightedMSE(Simple(), Uniform())
    assert torch.equal(loss(denoiser, x0, Cond(vector=x0)), torch.zeros(6))
    assert (loss(denoiser, x0, Cond(vector=x0 + 1)) > 0).all()


def test_vlb_on_flow_is_refused_with_what_works_instead():
    with pytest.raises(
        IncompatibleError, match=r"VLB weights the end of Flow.*infinitely.*simple or min_snr.*log_snr_min"
    ):
        WeightedMSE(VLB(), Uniform()).check(Flow(), V())


@pytest.mark.parametrize("weighting", [Simple(), MinSNR()])
def test_the_other_losses_on_flow_are_accepted(weighting):
    WeightedMSE(weighting, Uniform()).check(Flow(), V())


@over("weighting", WEIGHTINGS)
def test_every_loss_on_a_schedule_that_ends_before_pure_noise_is_accepted(weighting):
    for name, schedule in SCHEDULES.items():
        for parameterization in PARAMETERIZATIONS:
            if name != "flow" and (name, parameterization) not in MEANINGLESS:
                WeightedMSE(WEIGHTINGS[weighting], Uniform()).check(schedule, PARAMETERIZATIONS[parameterization])
