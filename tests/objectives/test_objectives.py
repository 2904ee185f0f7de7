import math

import pytest
import torch
from torch import nn
from torch.nn.functional import huber_loss

from cases import (
    MEANINGLESS,
    PARAMETERIZATIONS,
    SCHEDULES,
    TO_ZERO,
    VP,
    WEIGHTINGS,
    grid,
    over,
    over_each_pair,
    over_pairs,
)
from denoiselab import likelihood
from denoiselab.backbones import Encoder
from denoiselab.conditioning import Cond
from denoiselab.denoiser import Denoiser, Prediction
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.norms import L1, Huber
from denoiselab.objectives import CrossEntropy, Hybrid, LearnedUncertainty, VariationalBound, WeightedMSE, rounded_up
from denoiselab.parameterizations import V
from denoiselab.samplers.sampler import posterior_variance
from denoiselab.schedules import EDM, Flow, Linear, VESqrt, like
from denoiselab.schedules.learned import Learned
from denoiselab.time_sampling import LogitNormal, LogNormal, TimeSampler, Uniform
from denoiselab.weightings import MinSNR, Simple

NORMS = [(L1(), lambda e: e.abs()), (Huber(0.3), lambda e: 2 * huber_loss(e, torch.zeros_like(e), "none", 0.3))]


class Wave(nn.Module):
    """Some function of x_t and t, in float64."""

    def forward(self, x_t, t, cond):
        return torch.sin(3 * x_t + like(t, x_t))


class ExactForGaussian(nn.Module):
    """The best F for data N(0, std^2) at the times t, by any parameterization."""

    def __init__(self, schedule, parameterization, std, t):
        super().__init__()
        self.parts = schedule, parameterization, std, t  # in a tuple, as a learned schedule is no part of a network

    def forward(self, x_in, label, cond):
        schedule, parameterization, std, t = self.parts
        # F* is linear in (x0, eps), so the best F is the same form of E[x0|x_t] and E[eps|x_t].
        x_t = x_in / like(parameterization.network_input(schedule, t)[0], x_in)
        alpha, sigma = (like(part, x_t) for part in schedule(t))
        best = x_t / (alpha**2 * std**2 + sigma**2)
        return parameterization.target(alpha * std**2 * best, sigma * best, schedule, t)


def batch(n=64):
    return torch.randn(2, n, 3, 2, dtype=torch.float64)


@over_each_pair(MEANINGLESS, schedule=SCHEDULES, weighting=WEIGHTINGS, parameterization=PARAMETERIZATIONS)
def test_the_loss_is_the_weighted_eps_mse(schedule, parameterization, weighting):
    schedule, t = SCHEDULES[schedule], grid(64, low=0.05, high=0.88)
    weighting = WEIGHTINGS[weighting]
    denoiser = Denoiser(Wave(), schedule, PARAMETERIZATIONS[parameterization])
    x0, eps = batch()
    alpha, sigma = schedule(t)
    error = denoiser(like(alpha, x0) * x0 + like(sigma, x0) * eps, t).eps - eps
    found = WeightedMSE(weighting, Uniform())(denoiser, x0, t=t, eps=eps) / weighting(schedule, t)
    # eps_hat - eps cancels where the loss is small; in the output space nothing does.
    torch.testing.assert_close(found, error.square().mean((1, 2)), rtol=1e-8, atol=1e-13)
    weighted = torch.sqrt(weighting(schedule, t))[:, None, None] * error
    for norm, size in NORMS:
        found = WeightedMSE(weighting, Uniform(), norm)(denoiser, x0, t=t, eps=eps)
        torch.testing.assert_close(found, size(weighted).mean((1, 2)), rtol=1e-8, atol=1e-10)


@over("schedule", VP)
def test_with_v_prediction_the_eps_loss_weighs_v_by_snr_over_snr_plus_one(schedule):
    schedule, t = SCHEDULES[schedule], grid(200)
    found = WeightedMSE(Simple(), Uniform()).output_weight(schedule, V(), t)
    torch.testing.assert_close(found, schedule(t).alpha ** 2, rtol=2e-14, atol=1e-25)  # alpha = 0: 1e-13 squared


@over_pairs()
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_the_exact_denoiser_of_gaussian_data_has_the_loss_floor(schedule, parameterization, std):
    # The error is linear in (x0, eps), so the expected loss is that of (std, 0) plus that of (0, 1): nothing is drawn.
    parameterization_name, t = parameterization, grid(200, low=0.01)
    schedule, parameterization = SCHEDULES[schedule], PARAMETERIZATIONS[parameterization]
    denoiser = Denoiser(ExactForGaussian(schedule, parameterization, std, t), schedule, parameterization)
    loss = WeightedMSE(Simple(), Uniform())
    one, zero = torch.ones(200, 1, dtype=torch.float64), torch.zeros(200, 1, dtype=torch.float64)
    found = loss(denoiser, std * one, t=t, eps=zero) + loss(denoiser, zero, t=t, eps=one)
    alpha, sigma = schedule(t)
    variance = alpha**2 * std**2 + sigma**2
    # Against each other in absolute terms: both are below 1, and at alpha = 0 both are 0.
    torch.testing.assert_close(found, alpha**2 * std**2 / variance, rtol=1e-12, atol=1e-15)
    floors = {
        "eps": alpha**2 * std**2,
        "x0": std**2 * sigma**2,
        "v": std**2 * (alpha**2 + sigma**2) ** 2,
        "flow": std**2 * (alpha + sigma) ** 2,
        "score": alpha**2 * std**2 / sigma**2,
    }
    inside = alpha > 1e-12  # elsewhere the eps-MSE has no weight on F
    if parameterization_name in floors:
        torch.testing.assert_close(
            (found / loss.output_weight(schedule, parameterization, t))[inside],
            (floors[parameterization_name] / variance)[inside],
            rtol=1e-12,
            atol=0,
        )


def test_no_linear_denoiser_beats_the_floor():
    schedule, t = SCHEDULES["cosine"], grid(20, low=0.05, high=0.95)
    one, zero = torch.ones(20, 1, dtype=torch.float64), torch.zeros(20, 1, dtype=torch.float64)
    loss = WeightedMSE(Simple(), Uniform())

    def expected(std):
        denoiser = Denoiser(ExactForGaussian(schedule, V(), std, t), schedule, V())
        return loss(denoiser, one, t=t, eps=zero) + loss(denoiser, zero, t=t, eps=one)

    assert (expected(1.0) < expected(0.9)).all()
    assert (expected(1.0) < expected(1.1)).all()


@over("schedule", SCHEDULES)
@over("weighting", WEIGHTINGS)
def test_the_loss_of_a_sample_is_its_own(schedule, weighting):
    schedule, t = SCHEDULES[schedule], grid(5, low=0.1, high=0.85)
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
        def quantile(self, u, schedule):
            return grid(len(u), low=0.2)

        def density(self, t, schedule):
            return torch.ones_like(t)

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


@over("schedule", TO_ZERO)
@over("weighting", WEIGHTINGS)
@pytest.mark.parametrize("parameterization", ["x0", "v", "flow", "edm"])
def test_at_alpha_zero_the_loss_is_its_limit_and_finite(schedule, weighting, parameterization):
    # Where a weight is infinite, e_out is 0: inf * 0 would be NaN. The limit is that of the x0-MSE's weight.
    schedule, parameterization = SCHEDULES[schedule], PARAMETERIZATIONS[parameterization]
    objective = WeightedMSE(WEIGHTINGS[weighting], Uniform())
    end = objective.output_weight(schedule, parameterization, torch.ones(1, dtype=torch.float64))
    near = schedule.time(torch.tensor([-50.0], dtype=torch.float64))
    assert end.isfinite().all()
    torch.testing.assert_close(end, objective.output_weight(schedule, parameterization, near), rtol=1e-6, atol=1e-9)


# The bound.


class Fixed(nn.Module):
    """A network that says a learned tensor of twice the channels, whatever it is asked."""

    def __init__(self, shape):
        super().__init__()
        self.answer = nn.Parameter(torch.randn(shape[0], 2 * shape[1], *shape[2:], dtype=torch.float64))

    def forward(self, x_t, t, cond):
        return self.answer


@over("schedule", ["linear", "cosine_table", "ve_sqrt", "flow_ended", "sub_vp"])
@pytest.mark.parametrize("T", [10, 100])
def test_the_bound_in_steps_is_half_the_fall_of_the_snr_times_the_x0_mse(schedule, T):
    schedule = SCHEDULES[schedule]
    t = torch.arange(2, T + 1, dtype=torch.float64) / T
    x0, eps = torch.rand(2, T - 1, 3, 2, dtype=torch.float64)
    denoiser = Denoiser(Wave(), schedule, V())
    alpha, sigma = schedule(t)
    x0_hat = denoiser(like(alpha, x0) * x0 + like(sigma, x0) * eps, t).x0
    fall = torch.exp(schedule.log_snr(t - 1 / T)) - torch.exp(schedule.log_snr(t))
    found = VariationalBound(Uniform(), T)(denoiser, x0, t=t - 0.3 / T, eps=eps)  # rounded up to i/T
    expected = T * fall / 2 * (x0 - x0_hat).square().mean((1, 2))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_first_step_of_the_bound_is_the_decoder_of_256_levels():
    schedule, T = SCHEDULES["linear"], 1000
    x0 = (torch.randint(256, (5, 3, 2)).double() / 127.5) - 1
    denoiser, t, eps = Denoiser(Wave(), schedule, V()), torch.full((5,), 1e-4).double(), torch.randn(5, 3, 2).double()
    x_t = like(schedule(1 / T).alpha, x0) * x0 + like(schedule(1 / T).sigma, x0) * eps
    one = torch.full((5,), 1 / T, dtype=torch.float64)
    scale = likelihood.decoder_log_std(schedule, one, 2 * one, 1.0)
    expected = T * likelihood.decoder_nats(x0, denoiser(x_t, one).x0, scale).mean((1, 2))
    found = VariationalBound(Uniform(), T, "large")(denoiser, x0, t=t, eps=eps)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


@over("schedule", ["linear_continuous", "cosine", "sub_vp", "ve"])
def test_many_steps_of_the_bound_tend_to_continuous_time(schedule):
    schedule, t = SCHEDULES[schedule], grid(20, low=0.1, high=0.9)
    denoiser, (x0, eps) = Denoiser(Wave(), schedule, V()), batch(20)
    limit = VariationalBound(Uniform())(denoiser, x0, t=t, eps=eps)
    T = 10**6  # first order in 1/T; t = i/T exactly enough
    found = VariationalBound(Uniform(), T)(denoiser, x0, t=torch.round(t * T) / T, eps=eps)
    torch.testing.assert_close(found, limit, rtol=3e-4, atol=0)


def test_hybrid_trains_the_mean_by_the_mse_alone_and_the_variance_by_the_bound_alone():
    x0, eps = torch.rand(2, 4, 3, 2, dtype=torch.float64)
    t = torch.tensor([0.001, 0.2, 0.5, 1.0], dtype=torch.float64)
    network = Fixed(x0.shape)
    denoiser = Denoiser(network, SCHEDULES["linear"], V(), learns_variance=True)

    def gradient(objective):
        network.answer.grad = None
        objective(denoiser, x0, t=t, eps=eps).sum().backward()
        return network.answer.grad.clone()

    hybrid, bound = Hybrid(Simple(), Uniform()), VariationalBound(Uniform(), 1000, "learned")
    mean, variance = gradient(hybrid).chunk(2, 1)
    network_mean = gradient(WeightedMSE(Simple(), Uniform())).chunk(2, 1)[0]
    torch.testing.assert_close(mean, network_mean, rtol=1e-12, atol=0)
    expected = 0.001 / math.log(2) * gradient(bound).chunk(2, 1)[1]
    torch.testing.assert_close(variance, expected, rtol=1e-12, atol=0)
    assert (variance != 0).all()


def test_the_learned_variance_of_the_bound_has_its_minimum_at_the_error_s_own_size():
    # KL of N(mu, b) from N(mu', s): stationary where s = b + (mu - mu')^2, so for each element f is known.
    schedule, T, i = SCHEDULES["linear"], 1000, 500
    t = torch.full((1,), i / T, dtype=torch.float64)
    large, small = posterior_variance(schedule(t), schedule(t - 1 / T))
    x0 = torch.zeros(1, 1, dtype=torch.float64)
    x0_hat = torch.linspace(0, 3, 50, dtype=torch.float64)[:, None]
    (alpha_s, _), (_, sigma_t) = schedule(t - 1 / T), schedule(t)
    gap = (alpha_s * large / sigma_t**2 * x0_hat).square()
    best = torch.log((small + gap) / small) / torch.log(large / small)
    f = best.clone().requires_grad_()
    nats = likelihood.step_nats(
        schedule, x0.expand(50, 1), x0_hat, Prediction(x0_hat, x0_hat), t.expand(50), t.expand(50) - 1 / T, f
    )
    (slope,) = torch.autograd.grad(nats.sum(), f)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-11)


@pytest.mark.parametrize("variance", ["tiny", "learned"])
def test_a_bound_that_has_no_meaning_is_refused(variance):
    with pytest.raises(ConfigError, match=rf"variance must be small.*\(got {variance}\)"):
        VariationalBound(Uniform(), None, variance)
    with pytest.raises(ConfigError, match=r"variance must be learned .* take loss=simple"):
        Hybrid(Simple(), Uniform(), variance="small")


@pytest.mark.parametrize("T", [7, 50, 100, 300, 1000, 4000])
def test_the_times_of_a_chain_stay_what_they_are(T):
    # t T is rounded: ceil(0.07 100) is 8.
    t = torch.arange(1, T + 1, dtype=torch.float64) / T
    assert torch.equal(rounded_up(t, T), t)
    assert torch.equal(rounded_up(t - 0.4 / T, T), t)


@pytest.mark.parametrize("times", [LogNormal(), LogitNormal()])
def test_the_bound_is_a_sum_over_uniform_times(times):
    with pytest.raises(IncompatibleError, match="take time_sampling=stratified"):
        VariationalBound(times).check(Denoiser(Wave(), SCHEDULES["cosine"], V()))


# What is learned beside the network.


def test_learned_uncertainty_starts_as_its_base_and_rests_at_the_log_of_the_loss():
    # e^{-u} L + u: with u = 0 it is L; its gradient in u, 1 - e^{-u} L, is 0 at u = log L.
    denoiser, (x0, eps), t = Denoiser(Wave(), SCHEDULES["cosine"], V()), batch(16), grid(16, low=0.1)
    objective = LearnedUncertainty(MinSNR(), Uniform()).double()
    base = WeightedMSE(MinSNR(), Uniform())(denoiser, x0, t=t, eps=eps)
    torch.testing.assert_close(objective(denoiser, x0, t=t, eps=eps), base, rtol=1e-14, atol=0)
    objective.uncertainty = lambda schedule, t: torch.log(base)
    figures = objective.figures(denoiser, x0, None, t, eps)
    torch.testing.assert_close(figures["loss"], 1 + torch.log(base), rtol=1e-13, atol=1e-13)


def test_training_the_uncertainty_alone_finds_the_log_of_the_loss():
    denoiser, (x0, eps), t = Denoiser(Wave(), SCHEDULES["cosine"], V()), batch(64), grid(64, low=0.05)
    objective = LearnedUncertainty(Simple(), Uniform()).double()
    optimizer = torch.optim.LBFGS(objective.parameters(), max_iter=200)

    def closure():
        optimizer.zero_grad()
        loss = objective(denoiser, x0, t=t, eps=eps).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    figures = objective.figures(denoiser, x0, None, t, eps)
    # At the optimum over any span of functions that holds a constant's like, the mean of e^{-u} L is near 1.
    assert float(figures["loss"].mean()) < float(figures["unscaled_loss"].mean())
    u = objective.uncertainty(denoiser.schedule, t)
    assert float((torch.exp(-u) * figures["unscaled_loss"]).mean()) == pytest.approx(1, abs=0.05)


def test_cross_entropy_is_that_of_the_scores_and_counts_the_right_ones():
    class Scores(nn.Module):
        def forward(self, x_t, t, cond):
            return torch.stack([t, 1 - t, 0 * t], 1)

    t, label = torch.tensor([0.9, 0.2, 0.4]).double(), torch.tensor([0, 0, 1])
    figures = CrossEntropy(Uniform()).figures(
        Denoiser(Scores(), SCHEDULES["cosine"], V()),
        torch.zeros(3, 2).double(),
        Cond(label=label),
        t,
        torch.zeros(3, 2),
    )
    scores = torch.stack([t, 1 - t, 0 * t], 1)
    expected = torch.logsumexp(scores, 1) - scores[torch.arange(3), label]
    torch.testing.assert_close(figures["loss"], expected, rtol=1e-6, atol=0)
    assert figures["accuracy"].tolist() == [1.0, 0.0, 1.0]


def test_a_learned_schedule_is_trained_by_the_bound_alone_and_a_classifier_by_cross_entropy_alone():
    learned, encoder = Denoiser(Wave(), Learned(), V()), Encoder((1, 4, 4), 0, 3, channels=8, attention=[])
    VariationalBound(Uniform()).check(learned)
    for objective in (WeightedMSE(Simple(), Uniform()), Hybrid(Simple(), Uniform())):
        with pytest.raises(IncompatibleError, match="take loss=vlb"):
            objective.check(learned)
    with pytest.raises(IncompatibleError, match=r"loss\.T=null"):
        VariationalBound(Uniform(), 10).check(learned)
    classifier = Denoiser(encoder, SCHEDULES["cosine"], V())
    CrossEntropy(Uniform()).check(classifier)
    for objective, denoiser in (
        (CrossEntropy(Uniform()), Denoiser(Wave(), SCHEDULES["cosine"], V())),
        (WeightedMSE(Simple(), Uniform()), classifier),
        (VariationalBound(Uniform()), classifier),
    ):
        with pytest.raises(IncompatibleError, match="experiment=noisy_classifier"):
            objective.check(denoiser)


# The effective weight.


@over("schedule", ["linear_continuous", "cosine", "flow", "sub_vp", "ve", "edm"])
def test_the_effective_weight_of_the_bound_is_one_half_at_every_log_snr_whatever_the_schedule(schedule):
    # -lambda'/2 times the density 1/|lambda'| of uniform t: the bound depends on the schedule's ends alone (VDM §5.1).
    log_snr, weight = VariationalBound(Uniform()).effective(SCHEDULES[schedule])
    assert (log_snr.diff() > 0).all() or (log_snr.diff() < 0).all()
    torch.testing.assert_close(weight, torch.full_like(weight, 0.5), rtol=2e-3, atol=0)  # differences of t


def test_the_effective_weight_of_log_normal_times_is_their_normal_density():
    # EDM: lambda = -2 log sigma ~ N(2.4, 2.4^2).
    log_snr, weight = WeightedMSE(Simple(), LogNormal(-1.2, 1.2)).effective(SCHEDULES["edm"])
    expected = torch.exp(-(((log_snr - 2.4) / 2.4) ** 2) / 2) / (2.4 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(weight, expected, rtol=2e-3, atol=1e-12)


@over("weighting", ["simple", "min_snr", "p2", "sigmoid"])  # the others rise without end towards t = 1
def test_the_effective_weight_integrates_to_the_mean_weight_over_the_drawn_times(weighting):
    schedule = SCHEDULES["cosine"]
    objective = WeightedMSE(WEIGHTINGS[weighting], Uniform())
    log_snr, weight = objective.effective(schedule, points=4000)
    t = torch.linspace(float(schedule.time(log_snr[0])), float(schedule.time(log_snr[-1])), 20_001, dtype=torch.float64)
    mean = torch.trapezoid(objective.weight(schedule, t), t).abs()
    assert float(torch.trapezoid(weight, log_snr).abs()) == pytest.approx(float(mean), rel=5e-3)


@over("schedule", ["linear", "cosine", "flow", "sub_vp", "ve"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_weight_of_the_bound_in_steps_is_what_an_error_of_eps_costs(schedule, variance):
    schedule, T = SCHEDULES[schedule], 8
    objective = VariationalBound(Uniform(), T, variance)
    t, x0, off = torch.arange(1, T, dtype=torch.float64) / T, torch.zeros(T - 1, 1, dtype=torch.float64), 1e-3

    def loss(error):
        denoiser = Denoiser(ExactForPoint(schedule, t, error), schedule, V())
        return objective(denoiser, x0, t=t, eps=torch.zeros_like(x0))

    found = 2 * (loss(off) - loss(0.0)) / off**2 / 2
    # Half the decoder's density is a parabola only as far as its bins are narrow beside its scale.
    torch.testing.assert_close(objective.weight(schedule, t), found, rtol=1e-2, atol=0)


class ExactForPoint(nn.Module):
    """v of data that is 0, but for an error of eps."""

    def __init__(self, schedule, t, error):
        super().__init__()
        self.parts = schedule, t, error

    def forward(self, x_t, t, cond):
        schedule, t, error = self.parts
        _, e_out = V().eps_coefficients(schedule, t)
        return like(error / e_out, x_t)


def test_what_is_learned_beside_the_network_is_in_the_effective_weight():
    schedule, t = SCHEDULES["cosine"], grid(9, low=0.1)
    base = WeightedMSE(MinSNR(), Uniform()).weight(schedule, t)
    torch.testing.assert_close(Hybrid(MinSNR(), Uniform()).weight(schedule, t), base, rtol=0, atol=0)
    learned = LearnedUncertainty(MinSNR(), Uniform()).double()
    nn.init.normal_(learned.linear.weight)
    expected = base * torch.exp(-learned.uncertainty(schedule, t))
    torch.testing.assert_close(learned.weight(schedule, t), expected, rtol=1e-14, atol=0)
    assert not torch.allclose(expected, base)


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        (SCHEDULES["cosine"], Uniform()),
        (SCHEDULES["flow"], LogitNormal()),
        (VESqrt(), LogNormal()),
        (EDM(), LogNormal(mean=3.0)),
        (Linear(log_snr_min=-8.0), Uniform()),
    ],
)
def test_all_that_is_drawn_is_in_the_effective_weight_or_at_the_end(schedule, times):
    objective = WeightedMSE(Simple(), times)
    log_snr, weight = objective.effective(schedule, points=2000)
    mass = float(torch.trapezoid(weight, log_snr).abs())
    assert mass + objective.at_the_end(schedule) == pytest.approx(1, abs=5e-3)


def test_a_tenth_of_uniform_times_is_at_the_end_of_a_schedule_that_ends_there():
    schedule = Flow(log_snr_min=-2 * math.log(9))  # t = 0.9
    assert WeightedMSE(Simple(), Uniform()).at_the_end(schedule) == pytest.approx(0.1, abs=1e-3)
    assert WeightedMSE(Simple(), Uniform()).at_the_end(Flow()) == 0
