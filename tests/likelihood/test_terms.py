"""The terms of the bound against independent arithmetic: mpmath, and torch's own distributions."""

import math

import mpmath
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from cases import SCHEDULES, over
from denoiselab.denoiser import Prediction
from denoiselab.likelihood import decoder_log_std, decoder_nats, density_nats, prior_nats, step_nats
from denoiselab.schedules import EDM as EDMSchedule
from denoiselab.schedules import VE, Schedule, linear

EVERY = SCHEDULES | {"ve_": VE(), "edm_": EDMSchedule()}
LEVELS = (torch.arange(256, dtype=torch.float64) * 2 / 255 - 1)[None]
FRACTIONS = [0.0, 0.3, 1.0]


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def data(n: int = 5) -> tuple[Tensor, Prediction]:
    x0, guess = torch.randn(2, n, 3, dtype=torch.float64)
    return x0, Prediction(guess, torch.zeros_like(guess))


def reverse(schedule: Schedule, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mean of q(x_s|x_t, x0), beta, beta-tilde) as DDPM has them, eq. 6 and 7."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    beta = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    mean = (alpha_t / alpha_s * sigma_s**2 * x_t + alpha_s * beta * x0) / sigma_t**2
    return mean, beta, beta * sigma_s**2 / sigma_t**2


@over("name", EVERY)
@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.9), (0.6, 0.2), (0.3, 0.299)])
def test_a_step_is_the_divergence_of_two_gaussians(name, fraction, t, s):
    schedule, (x0, prediction) = EVERY[name], data()
    t, s, x_t = scalar(t), scalar(s), torch.randn_like(x0)
    told = step_nats(schedule, x0, x_t, prediction, t.expand(5), s.expand(5), fraction)
    if schedule.log_snr(t) == schedule.log_snr(s):  # ended early: nothing moves, and there is nothing to be told
        assert (told == 0).all()
        return
    mean, beta, small = reverse(schedule, x_t, x0, t, s)
    guess, *_ = reverse(schedule, x_t, prediction.x0, t, s)
    std = torch.sqrt(beta**fraction * small ** (1 - fraction))
    known = kl_divergence(Normal(mean, small.sqrt()), Normal(guess, std))
    # beta and the divergence are differences: of nearby steps each is left with 1e-16/1e-3 of its digits, and with the
    # division by sigma a little less. ve's sigma_t/sigma_s = 1.01 adds two digits of cancellation in the variances.
    torch.testing.assert_close(told, known, rtol=1e-8, atol=1e-11)


@over("name", EVERY)
def test_with_the_small_variance_a_step_is_half_the_difference_of_snr_times_the_squared_error(name):
    schedule, (x0, prediction) = EVERY[name], data()
    t, s = torch.rand(2, 5, dtype=torch.float64).sort(0, descending=True).values
    snr_t, snr_s = (torch.exp(schedule.log_snr(time)) for time in (t, s))
    told = step_nats(schedule, x0, x0, prediction, t, s, 0.0)
    known = (snr_s - snr_t)[:, None] / 2 * (x0 - prediction.x0) ** 2
    torch.testing.assert_close(told, known, rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("t", "s"), [(0.5, 0.499), (0.002, 0.001), (1.0, 0.0001)])
def test_a_steps_cost_of_a_wrong_variance_is_right_to_rounding_where_the_variances_are_near(t, s, dtype):
    """At f r = 1e-3 the plain formula f r + e^{-f r} - 1 has 3 digits left in float32."""
    schedule = linear(T=None)
    with mpmath.workdps(40):
        r = mpmath.log(
            mpmath.expm1(_exponent(t)) / mpmath.expm1(_exponent(s)) * mpmath.exp(_exponent(s) - _exponent(t))
        )
        known = [float((f * r + mpmath.expm1(-f * r)) / 2) for f in (0.01, 0.3, 1.0)]
    x0 = torch.zeros(1, 1, dtype=dtype)
    for f, value in zip((0.01, 0.3, 1.0), known, strict=True):
        for fraction in (f, torch.full_like(x0, f)):
            told = step_nats(schedule, x0, x0, Prediction(x0, x0), scalar(t)[None], scalar(s)[None], fraction)
            assert told.dtype == dtype
            # f r itself is rounded once, and squared.
            assert float(told) == pytest.approx(
                value, rel=8 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-12
            )


def _exponent(t: float) -> mpmath.mpf:
    """-log abar of the continuous linear schedule."""
    return mpmath.mpf("19.9") * mpmath.mpf(t) ** 2 / 2 + mpmath.mpf("0.1") * mpmath.mpf(t)


def test_a_fraction_may_differ_from_element_to_element():
    schedule, (x0, prediction) = SCHEDULES["linear"], data(2)
    t, s = torch.tensor([[0.9, 0.5], [0.7, 0.1]], dtype=torch.float64)
    f = torch.rand_like(x0)
    told = step_nats(schedule, x0, x0, prediction, t, s, f)
    for i in range(2):
        for j in range(3):
            alone = step_nats(schedule, x0, x0, prediction, t, s, float(f[i, j]))
            assert float(told[i, j]) == pytest.approx(float(alone[i, j]), rel=1e-14)


@over("name", EVERY)
def test_the_prior_is_the_divergence_from_the_noise_that_sampling_starts_from(name):
    schedule, (x0, _) = EVERY[name], data()
    alpha, sigma = schedule(1.0)
    known = kl_divergence(Normal(alpha * x0, sigma), Normal(torch.zeros_like(x0), schedule.prior_std))
    # The known one is a difference of numbers near 1.
    torch.testing.assert_close(prior_nats(schedule, x0), known, rtol=1e-12, atol=1e-15)


def test_the_prior_of_ddpm_is_the_number_that_its_schedule_gives():
    """abar = 4.035830e-5: (abar x^2 - abar - log(1 - abar))/2, which is abar x^2/2 to the next order in abar."""
    x0 = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    abar = 4.035830e-5
    zero, one = prior_nats(linear(), x0)[0].tolist()
    assert zero == pytest.approx(abar**2 / 4, rel=1e-4)
    assert one == pytest.approx(abar / 2, rel=1e-4)


@over("name", EVERY)
def test_many_steps_weigh_as_the_continuous_bound_does(name):
    """(SNR_s - SNR_t) T/2 tends to -SNR'(t)/2 = -lambda'/2 e^lambda; with s = t - 1/T the error is of order 1/T."""
    schedule, t = EVERY[name], scalar(0.4037)[None]
    x0, guess = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    known = float(-schedule.log_snr_slope(t) / 2 * torch.exp(schedule.log_snr(t)))
    errors = []
    for T in (2e4, 4e4):
        told = T * float(step_nats(schedule, x0, x0, Prediction(guess, guess), t, t - 1 / T, 0.0))
        errors.append(told / known - 1)
    assert errors[0] < 2e-3
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.02)


@pytest.mark.parametrize("mean", [-1.7, -1.0, -0.999, 0.0, 0.1234, 0.996, 1.0, 30.0])
@pytest.mark.parametrize("log_std", [-12.0, -6.0, -5.0, -2.0, 0.0, 2.0])
def test_the_decoders_256_levels_have_all_of_the_probability(mean, log_std):
    p = torch.exp(-decoder_nats(LEVELS, torch.full_like(LEVELS, mean), scalar(log_std)))
    # A border that is off by 1e-16 is 1e-11 off in units of the smallest std, 6e-6.
    assert float(p.sum()) == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("log_std", [-9.0, -5.0, -1.0])
def test_the_decoder_is_the_probability_of_a_bin_in_the_tails_too(log_std):
    """To 1e-13 of -log p, where p itself may be 1e-100000."""
    levels, mean = LEVELS[:, [0, 1, 100, 128, 254, 255]], 0.1234
    told = decoder_nats(levels, torch.full_like(levels, mean), scalar(log_std))[0].tolist()
    with mpmath.workdps(60):
        std, half = mpmath.exp(log_std), mpmath.mpf(1) / 255
        for value, level in zip(told, levels[0].tolist(), strict=True):
            upper = mpmath.inf if level == 1 else (level + half - mpmath.mpf(mean)) / std
            lower = -mpmath.inf if level == -1 else (level - half - mpmath.mpf(mean)) / std
            if lower > 0:
                upper, lower = -lower, -upper
            p = (mpmath.erfc(-upper / mpmath.sqrt(2)) - mpmath.erfc(-lower / mpmath.sqrt(2))) / 2
            assert value == pytest.approx(float(-mpmath.log(p)), rel=1e-13)


def test_the_decoder_and_its_gradient_are_finite_in_float32_however_far_and_narrow():
    x0 = LEVELS[:, ::15].float()
    for mean in (-50.0, 0.0, 1.0, 50.0):
        for log_std in (-9.0, -3.0, 3.0):
            guess = torch.full_like(x0, mean, requires_grad=True)
            scale = torch.full_like(x0, log_std, requires_grad=True)
            nats = decoder_nats(x0, guess, scale)
            nats.sum().backward()
            assert nats.dtype == torch.float32
            for part in (nats, guess.grad, scale.grad):
                assert part.isfinite().all()


def test_a_wide_decoders_probability_is_its_density_times_the_width_of_a_bin():
    """So bits of a density are 6.994 less, log2(127.5): levels are 2/255 apart, not 2/256, which would be 7."""
    x0, mean = LEVELS[:, 40:200], torch.full((1, 160), 0.1, dtype=torch.float64)
    log_std = scalar(math.log(0.5))
    more = decoder_nats(x0, mean, log_std) - density_nats(x0, mean, log_std)
    # The next term of the bin's mean is (z^2 - 1)/24 (width/std)^2 = 1e-5 z^2.
    torch.testing.assert_close(more / math.log(2), torch.full_like(more, math.log2(127.5)), rtol=0, atol=1e-4)


def test_the_density_is_the_gaussians():
    x0, mean, log_std = torch.randn(3, 4, 2, dtype=torch.float64)
    known = -Normal(mean, log_std.exp()).log_prob(x0)
    torch.testing.assert_close(density_nats(x0, mean, log_std), known, rtol=1e-12, atol=1e-13)
    known = -Normal(mean, log_std[:, :1].exp()).log_prob(x0)
    torch.testing.assert_close(density_nats(x0, mean, log_std[:, 0]), known, rtol=1e-12, atol=1e-13)


@over("name", EVERY)
def test_the_decoders_scale_is_that_of_the_last_step_with_the_next_ones_beta_tilde(name):
    schedule, t_1, t_2 = EVERY[name], scalar(0.01)[None], scalar(0.02)[None]
    _, _, small = reverse(schedule, scalar(0.0), scalar(0.0), t_2, t_1)
    beta = schedule(t_1).sigma ** 2
    for f in FRACTIONS:
        known = (f * torch.log(beta) + (1 - f) * torch.log(small)) / 2
        torch.testing.assert_close(decoder_log_std(schedule, t_1, t_2, f), known, rtol=1e-11, atol=0)
        each = decoder_log_std(schedule, t_1, t_2, torch.full((1, 2), f, dtype=torch.float64))
        torch.testing.assert_close(each, known[:, None].expand(1, 2), rtol=1e-11, atol=0)
