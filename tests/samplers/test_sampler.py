import math
from itertools import pairwise

import pytest
import torch

from cases import DETERMINISTIC, SAMPLERS, SCHEDULES, SPACINGS, EvenInLogSNR, grid, over
from denoiselab.analytic import Gaussian
from denoiselab.denoiser import Prediction
from denoiselab.errors import ConfigError
from denoiselab.randomness import SampleNoise
from denoiselab.samplers import DDIM, Sampler
from denoiselab.samplers.sampler import posterior_variance
from denoiselab.schedules import linear
from denoiselab.spacings import Custom, Trailing

# The kinds of schedule a sampler can meet: in sigma/alpha all are one ODE (test_convergence.py), and their ends differ.
KINDS = ("linear", "linear_ended", "cosine_table", "flow", "linear_to_zero", "sub_vp", "ve")
# The evaluations of the denoiser in `steps` steps, for samplers that do not take one a step; `singular`, 0 or 1, of the
# steps is from alpha = 0 and not the only one. The last step, to sigma = 0, is Euler's in all of them.
EVALUATIONS = {
    "heun": lambda steps, singular: 2 * steps - 1 - singular,
    "dpmpp_2s": lambda steps, singular: 2 * steps - 1 - singular,
    "plms": lambda steps, singular: steps + (steps > 1) - singular,  # improved Euler's method to begin with
}
BETWEEN = {"dpmpp_2s"}  # evaluate the denoiser at times between those of the grid too
# How much of the rounding of a denoiser's answers a sampler amplifies, from the factors by which alpha grows in the
# steps. Those in n = sigma/alpha divide by alpha_t: Heun forgets that in the next step, a multistep method keeps it.
# UniPC-3 extrapolates a quadratic over steps that are longer in log-SNR than those it was taken from.
AMPLIFIED = {"heun": max, "plms": math.prod, "unipc_3_bh1": lambda growth: 10.0}


class Recording:
    """Calls of a function, kept."""

    def __init__(self, function):
        self.function, self.calls = function, []

    def __call__(self, *args):
        self.calls.append(args)
        return self.function(*args)


def sampled(sampler, schedule, x_T, steps=6, spacing="trailing", noise=None, on_step=None):
    denoise, noise = Gaussian(SCHEDULES[schedule], 0.3, 0.5), noise or SampleNoise(1, range(len(x_T)))
    return SAMPLERS[sampler](steps, SPACINGS[spacing])(denoise, SCHEDULES[schedule], x_T, noise, on_step)


# q(x_t|x_s) and q(x_s|x_t, x_0).


@over("schedule", SCHEDULES)
def test_two_parts_of_the_way_are_the_whole_way(schedule):
    # q(x_t|x_s) after q(x_s|x_0) is q(x_t|x_0), and q(x_s|x_t,x_0) after q(x_t|x_0) is q(x_s|x_0).
    schedule = SCHEDULES[schedule]
    for t in grid(20, low=0.05):
        for s in grid(20, high=0.95) * t:
            (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
            var_ts, posterior = posterior_variance(schedule(t), schedule(s))
            alpha_ts = alpha_t / alpha_s
            of_x_t, of_x_0 = alpha_ts * sigma_s**2 / sigma_t**2, alpha_s * var_ts / sigma_t**2
            assert float(alpha_ts**2 * sigma_s**2 + var_ts) == pytest.approx(float(sigma_t) ** 2, rel=1e-15)
            assert float(of_x_t * alpha_t + of_x_0) == pytest.approx(float(alpha_s), rel=1e-13)
            assert float(of_x_t**2 * sigma_t**2 + posterior) == pytest.approx(float(sigma_s) ** 2, rel=1e-13)


def test_at_neighbouring_nodes_the_variances_are_ddpm_s_beta_and_beta_tilde():
    T, schedule = 100, linear(100)
    beta = torch.linspace(0.1 / T, 20 / T, T, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    for i in range(2, T + 1):
        large, small = posterior_variance(schedule(i / T), schedule((i - 1) / T))
        # A difference of two numbers below 1, over a beta of 1e-3 or more; i/T is rounded besides.
        assert float(large) == pytest.approx(float(beta[i - 1]), rel=1e-11)
        expected = float((1 - alpha_bar[i - 2]) / (1 - alpha_bar[i - 1]) * beta[i - 1])
        assert float(small) == pytest.approx(expected, rel=1e-11)


def test_the_posterior_of_the_last_step_is_a_point():
    large, small = posterior_variance(SCHEDULES["linear"](0.001), SCHEDULES["linear"](0.0))
    assert float(large) == pytest.approx(1e-4, rel=1e-12)
    assert small == 0


# The contract, for every sampler.


@over("schedule", KINDS)
@over("sampler", SAMPLERS)
def test_a_sampler_acts_on_each_number_alike_whatever_the_event_s_shape(schedule, sampler):
    # The Gaussian denoiser acts on each number alike, so a batch of images is a batch of numbers.
    shapes = [(), (2,), (3, 8, 8)]
    for shape in shapes:
        x_T, z = torch.randn(2, 4, *shape, dtype=torch.float64)
        found = sampled(sampler, schedule, x_T, noise=lambda x, z=z: z)
        flat = sampled(sampler, schedule, x_T.flatten(), noise=lambda x, z=z: z.flatten())
        assert torch.equal(found.flatten(), flat)
        assert found.shape == x_T.shape


@over("schedule", KINDS)
@over("sampler", SAMPLERS)
@over("spacing", ["leading", "log_snr"])
def test_samples_are_finite_and_float32_differs_from_float64_by_rounding_alone(schedule, sampler, spacing):
    x_T = torch.randn(16, 2) * SCHEDULES[schedule].prior_std
    noise = [torch.randn(16, 2) for _ in range(12)]
    draws = [iter(noise), iter(noise)]
    single = sampled(sampler, schedule, x_T, steps=12, spacing=spacing, noise=lambda x: next(draws[0]))
    double = sampled(
        sampler, schedule, x_T.double(), steps=12, spacing=spacing, noise=lambda x: next(draws[1]).to(x.dtype)
    )
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    # 12 steps of a few roundings of 6e-8 each, of numbers near prior_std. alpha grows 2650-fold in a step at the worst,
    # the end of the cosine table.
    schedule = SCHEDULES[schedule]
    growth = [float(schedule(s).alpha / schedule(t).alpha) for t, s in pairwise(SPACINGS[spacing](12, schedule)[:-1])]
    amplified = AMPLIFIED.get(sampler, lambda growth: 1.0)([factor for factor in growth if math.isfinite(factor)])
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-6 * amplified * schedule.prior_std)


@over("sampler", SAMPLERS)
def test_on_step_sees_every_step_of_the_grid(sampler):
    seen, x_T = [], torch.randn(4, 2)
    x_0 = sampled(sampler, "cosine", x_T, steps=7, on_step=seen.append)
    times = Trailing()(7, SCHEDULES["cosine"])
    assert [(step.index, step.steps) for step in seen] == [(i, 7) for i in range(7)]
    assert [(float(step.t), float(step.s)) for step in seen] == [(float(t), float(s)) for t, s in pairwise(times)]
    assert seen[-1].x is x_0
    assert len({step.x.data_ptr() for step in seen}) == 7


@over("sampler", SAMPLERS)
def test_watching_changes_nothing(sampler):
    x_T = torch.randn(4, 2)
    assert torch.equal(sampled(sampler, "cosine", x_T, on_step=lambda step: None), sampled(sampler, "cosine", x_T))


@over("schedule", KINDS)
@over("sampler", SAMPLERS)
def test_a_sampler_keeps_nothing_between_calls(schedule, sampler):
    sampler, x_T = SAMPLERS[sampler](5, Trailing()), torch.randn(4, 2)
    denoise, before, kept = Gaussian(SCHEDULES[schedule], 0.3, 0.5), dict(vars(sampler)), x_T.clone()
    first, second = (sampler(denoise, SCHEDULES[schedule], x_T, SampleNoise(0, range(4))) for _ in range(2))
    assert torch.equal(first, second)
    assert vars(sampler) == before
    assert torch.equal(x_T, kept)


@over("sampler", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(sampler):
    x_T = torch.randn(6, 3)
    whole = sampled(sampler, "cosine", x_T, noise=SampleNoise(0, range(6)))
    parts = [sampled(sampler, "cosine", x_T[i : i + 2], noise=SampleNoise(0, range(i, i + 2))) for i in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), whole)


@over("schedule", KINDS)
@over("sampler", SAMPLERS)
def test_the_last_step_returns_x0_hat_and_draws_no_noise(schedule, sampler):
    schedule, x = SCHEDULES[schedule], torch.randn(4, 2, dtype=torch.float64)
    denoise, noise = Gaussian(schedule, 0.3, 0.5), Recording(torch.randn_like)
    for t in grid(5):
        found, _ = SAMPLERS[sampler](1, Trailing()).step(denoise, schedule, x, t, torch.zeros_like(t), None, noise)
        # DDPM's mean is alpha_0 sigma_t^2/sigma_t^2 x0_hat: a rounding or two.
        torch.testing.assert_close(found, denoise(x, t.expand(4)).x0, rtol=1e-15, atol=0)
    assert not noise.calls


@over("schedule", KINDS)
@over("sampler", SAMPLERS)
def test_noise_is_called_once_for_each_draw_with_a_tensor_like_x(schedule, sampler):
    noise, x_T = Recording(torch.randn_like), torch.randn(4, 2, 3, dtype=torch.float64)
    sampled(sampler, schedule, x_T, steps=6, noise=noise)
    assert len(noise.calls) == (0 if sampler in DETERMINISTIC else 5)
    assert all((x.shape, x.dtype) == (x_T.shape, x_T.dtype) for (x,) in noise.calls)


@over("schedule", KINDS)
@over("sampler", SAMPLERS)
def test_the_denoiser_is_evaluated_at_the_times_of_the_grid_in_float64_for_each_sample(schedule, sampler):
    schedule, x_T = SCHEDULES[schedule], torch.randn(4, 2)
    denoise = Recording(Gaussian(schedule, 0.3, 0.5))
    SAMPLERS[sampler](6, Trailing())(denoise, schedule, x_T)
    assert all((t.shape, t.dtype) == ((4,), torch.float64) for _, t in denoise.calls)
    assert all((t == t[0]).all() for _, t in denoise.calls)
    seen, times = {float(t[0]) for _, t in denoise.calls}, Trailing()(6, schedule).tolist()
    assert set(times[:-1]) <= seen
    for t, s in pairwise(times):
        singular = s == 0 or schedule(t).alpha == 0
        assert len([u for u in seen if s < u < t]) == (sampler in BETWEEN and not singular)
    assert torch.equal(denoise.calls[0][0], x_T)


@over("schedule", SCHEDULES)
def test_a_grid_that_begins_below_t_1_begins_with_x_of_the_size_of_unit_data_there(schedule):
    schedule, x_T = SCHEDULES[schedule], torch.randn(4, dtype=torch.float64)
    denoise = Recording(Gaussian(schedule, 0.3, 0.5))
    DDIM(4, EvenInLogSNR())(denoise, schedule, x_T)
    (alpha, sigma), (alpha_T, sigma_T) = schedule(EvenInLogSNR()(4, schedule)[0]), schedule(1.0)
    expected = x_T * torch.sqrt((alpha**2 + sigma**2) / (alpha_T**2 + sigma_T**2))
    torch.testing.assert_close(denoise.calls[0][0], expected, rtol=1e-15, atol=0)


@over("schedule", KINDS)
@over("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_the_denoiser_is_evaluated_once_a_step_except_where_the_table_differs(schedule, sampler, steps):
    schedule = SCHEDULES[schedule]
    denoise, singular = Recording(Gaussian(schedule, 0.3, 0.5)), int(schedule(1.0).alpha == 0 and steps > 1)
    SAMPLERS[sampler](steps, Trailing())(denoise, schedule, torch.randn(2))
    assert len(denoise.calls) == EVALUATIONS.get(sampler, lambda steps, singular: steps)(steps, singular)


@over("schedule", KINDS)
@over("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_data_of_one_point_are_found_exactly(schedule, sampler, steps):
    # The last step returns x0_hat, which is the point whatever went before.
    denoise = Gaussian(SCHEDULES[schedule], 0.3, std=0.0)
    x_0 = SAMPLERS[sampler](steps, Trailing())(denoise, SCHEDULES[schedule], torch.randn(4).double())
    torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=2e-15, atol=0)


@over("sampler", SAMPLERS)
@over("spacing", SPACINGS)
def test_every_spacing_leads_to_the_data(sampler, spacing):
    denoise = Gaussian(SCHEDULES["cosine"], 0.3, std=0.0)
    x_0 = SAMPLERS[sampler](10, SPACINGS[spacing])(denoise, SCHEDULES["cosine"], torch.randn(4).double())
    torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=2e-15, atol=0)


def test_what_a_step_returns_as_its_state_the_next_is_given():
    class Counting(Sampler):
        def step(self, denoise, schedule, x, t, s, state, noise):
            seen.append(state)
            return x + 1, len(seen)

    seen = []
    sampler = Counting(4, Trailing())
    assert torch.equal(sampler(None, SCHEDULES["flow"], torch.zeros(2)), torch.full((2,), 4.0))
    assert seen == [None, 1, 2, 3]


@over("sampler", SAMPLERS)
def test_one_step_alone_is_the_denoiser_at_the_end(sampler):
    x_T = torch.randn(5, dtype=torch.float64)
    expected = Gaussian(SCHEDULES["cosine"], 0.3, 0.5)(x_T, torch.ones(5)).x0
    torch.testing.assert_close(sampled(sampler, "cosine", x_T, steps=1), expected, rtol=1e-15, atol=0)


@over("sampler", SAMPLERS)
def test_where_the_schedule_has_ended_a_step_is_none(sampler):
    # Between two times past log_snr_min there is no change of level: nothing moves, and no noise is drawn.
    schedule, x, noise = linear(log_snr_min=-8.0), torch.randn(5, dtype=torch.float64), Recording(torch.randn_like)
    t, s = torch.tensor([1.0, 0.95], dtype=torch.float64)
    assert schedule(t) == schedule(s)
    found, _ = SAMPLERS[sampler](1, Trailing()).step(Gaussian(schedule, 0.3, 0.5), schedule, x, t, s, None, noise)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-14)  # x0_hat and eps_hat put together again
    assert not noise.calls


def test_a_denoiser_in_float32_leaves_the_state_in_float64():
    schedule = SCHEDULES["cosine"]
    exact = Gaussian(schedule)

    def coarse(x, t):
        prediction = exact(x, t)
        return Prediction(prediction.x0.float(), prediction.eps.float())

    for make in SAMPLERS.values():
        assert make(3, Trailing())(coarse, schedule, torch.randn(2, 3, dtype=torch.float64)).dtype == torch.float64


def test_fewer_than_one_step_and_an_eta_beyond_one_are_refused():
    for make in SAMPLERS.values():
        with pytest.raises(ConfigError, match=r"^steps must be at least 1 \(got 0\)"):
            make(0, Trailing())
    with pytest.raises(ConfigError, match=r"^eta must be from 0 to 1 \(got 1\.5\)"):
        DDIM(3, Trailing(), eta=1.5)


@over("sampler", DETERMINISTIC)
def test_a_plateau_changes_nothing_that_follows(sampler):
    # Past log_snr_min nothing moves, and what a multistep method knows is of the times before and after.
    ended, x = linear(T=None, log_snr_min=-6.0), torch.randn(7, dtype=torch.float64)
    moving = ended.time(torch.linspace(-5.999, 5.0, 6, dtype=torch.float64)).tolist()
    assert moving[0] < 0.97
    made = []
    for plateau in ([1.0], [1.0, 0.98, 0.97]):
        times = [*plateau, *moving]
        made.append(SAMPLERS[sampler](len(times), Custom(times))(Gaussian(ended, 0.3, 0.5), ended, x))
    torch.testing.assert_close(*made, rtol=0, atol=1e-14)  # alpha x0_hat + sigma eps_hat is x_t but for a rounding
