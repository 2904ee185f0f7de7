import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad

from cases import SCHEDULES, over
from denoiselab.analytic import Gaussian
from denoiselab.denoiser import Prediction
from denoiselab.errors import ConfigError
from denoiselab.samplers import DDIM, DPMpp2M, UniPC
from denoiselab.samplers.unipc import Known
from denoiselab.spacings import Trailing

TIMES = torch.tensor([0.8, 0.7, 0.6, 0.45], dtype=torch.float64)


def polynomial(schedule, coefficients):
    """A denoiser whose x0_hat is a polynomial in half of log-SNR, whatever x is."""

    def denoise(x, t):
        half = schedule.log_snr(t) / 2
        return Prediction(x0=sum(c * half**i for i, c in enumerate(coefficients)), eps=torch.zeros_like(x))

    return denoise


def solution(schedule, coefficients, x, t, s):
    """x_s = sigma_s/sigma_t x_t + sigma_s int exp(l) x0_hat(l) dl, by quadrature."""
    low, high = (float(schedule.log_snr(u)) / 2 for u in (t, s))
    area, _ = quad(lambda u: math.exp(u) * sum(c * u**i for i, c in enumerate(coefficients)), low, high, epsabs=1e-14)
    return float(schedule(s).sigma) * (x / float(schedule(t).sigma) + area)


def known(schedule, denoise, times):
    return tuple(Known(schedule.log_snr(t) / 2, schedule(t).sigma, denoise(torch.zeros(1), t[None]).x0) for t in times)


@over("schedule", ["linear", "cosine", "flow", "ve"])
@over("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("points", [1, 3, 4])
def test_a_step_is_exact_for_a_polynomial_through_all_that_is_known(schedule, variant, points):
    # Two points alone are the exception: their rho = 1/2 is right to the order only.
    schedule, coefficients = SCHEDULES[schedule], [0.4, -0.3, 0.2, 0.1][:points]
    sampler, x = UniPC(1, Trailing(), order=3, variant=variant), torch.tensor([0.7], dtype=torch.float64)
    *earlier, t, s = TIMES
    denoise, expected = polynomial(schedule, coefficients), solution(schedule, coefficients, 0.7, t, s)
    if points > 1:  # as the corrector, which knows the end of the step
        found = sampler.update(x, known(schedule, denoise, [*[t, *reversed(earlier)][: points - 1], s]), schedule(s))
        assert float(found) == pytest.approx(expected, rel=1e-11)
    if points < 4:  # as the predictor
        found = sampler.update(x, known(schedule, denoise, [t, *reversed(earlier)][:points]), schedule(s))
        assert float(found) == pytest.approx(expected, rel=1e-11)


@over("schedule", SCHEDULES)
def test_the_predictor_of_order_2_with_bh2_is_dpm_solver_pp_2m(schedule):
    schedule, (last_x0, x0, x) = SCHEDULES[schedule], torch.randn(3, 7, dtype=torch.float64)
    a, b, c = TIMES[:3]
    history = tuple(Known(schedule.log_snr(t) / 2, schedule(t).sigma, m) for t, m in ((b, x0), (a, last_x0)))
    found = UniPC(1, Trailing()).update(x, history, schedule(c))
    state = last_x0, (schedule.log_snr(b) - schedule.log_snr(a)) / 2
    denoise = lambda x, t: Prediction(x0=x0, eps=x0)  # noqa: E731
    expected, _ = DPMpp2M(1, Trailing()).step(denoise, schedule, x, b, c, state, torch.randn_like)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)


@over("schedule", SCHEDULES)
@over("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_first_step_is_ddim_s(schedule, variant, order):
    schedule, x = SCHEDULES[schedule], torch.randn(7, dtype=torch.float64)
    denoise = Gaussian(schedule, 0.3, 0.5)
    for t, s in torch.tensor([[1.0, 0.8], [0.5, 0.3], [0.3, 0.0]], dtype=torch.float64):
        found, expected = (
            sampler.step(denoise, schedule, x, t, s, None, torch.randn_like)[0]
            for sampler in (UniPC(5, Trailing(), order, variant), DDIM(5, Trailing()))
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@over("schedule", ["linear", "cosine", "flow", "ve"])
@pytest.mark.parametrize(("variant", "B"), [("bh1", lambda h: h), ("bh2", lambda h: 1 - math.exp(-h))])
def test_the_corrector_of_order_1_averages_with_what_the_next_step_evaluates(schedule, variant, B):
    # x_c = sigma_s/sigma_t x + alpha_s (1 - e^-h) m_t + alpha_s B(h) (m_s - m_t)/2, from which the next step starts.
    schedule, x = SCHEDULES[schedule], torch.randn(7, dtype=torch.float64)
    denoise, sampler = Gaussian(schedule, 0.3, 0.5), UniPC(9, Trailing(), order=1, variant=variant)
    t, s, u = TIMES[:3]
    predicted, state = sampler.step(denoise, schedule, x, t, s, None, torch.randn_like)
    found, state = sampler.step(denoise, schedule, predicted, s, u, state, torch.randn_like)
    m_t, m_s = denoise(x, t.expand(7)).x0, denoise(predicted, s.expand(7)).x0
    (_, sigma_t), (alpha_s, sigma_s), (alpha_u, sigma_u) = map(schedule, (t, s, u))
    h, h_next = ((schedule.log_snr(TIMES[i + 1]) - schedule.log_snr(TIMES[i])) / 2 for i in (0, 1))
    corrected = sigma_s / sigma_t * x + alpha_s * (1 - torch.exp(-h)) * m_t + alpha_s * B(h) * (m_s - m_t) / 2
    expected = sigma_u / sigma_s * corrected + alpha_u * (1 - torch.exp(-h_next)) * m_s
    torch.testing.assert_close(state.x, corrected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_from_order_3_on_the_variants_differ_by_their_beginning_alone():
    # B(h) cancels where the rho are solved for.
    schedule, x = SCHEDULES["cosine"], torch.randn(1, dtype=torch.float64)
    history = known(schedule, Gaussian(schedule, 0.3, 0.5), TIMES[:3].flip(0))
    one, two = (UniPC(1, Trailing(), 3, variant).update(x, history, schedule(TIMES[3])) for variant in ("bh1", "bh2"))
    torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("lower_order_final", "orders"), [(True, [1, 2, 3, 3, 2, 1]), (False, [1, 2, 3, 3, 3, 1])])
def test_lower_order_final_keeps_the_order_at_or_below_the_steps_left(lower_order_final, orders):
    schedule, x = SCHEDULES["cosine"], torch.randn(3, dtype=torch.float64)
    sampler, state, seen = UniPC(6, Trailing(), 3, lower_order_final=lower_order_final), None, []
    times = torch.linspace(0.9, 0, 7, dtype=torch.float64)
    for t, s in pairwise(times):
        x, state = sampler.step(Gaussian(schedule, 0.3, 0.5), schedule, x, t, s, state, torch.randn_like)
        seen.append(len(state.known))
    assert seen == orders


@over("name", ["flow", "linear_to_zero"])
def test_after_alpha_zero_it_begins_anew(name):
    schedule, x = SCHEDULES[name], torch.randn(7, dtype=torch.float64)
    denoise, sampler, ddim = Gaussian(schedule, 0.3, 0.5), UniPC(9, Trailing(), 3), DDIM(9, Trailing())
    state, expected = None, x
    for t, s in torch.tensor([[1.0, 0.7], [0.7, 0.4]], dtype=torch.float64):
        x, state = sampler.step(denoise, schedule, x, t, s, state, torch.randn_like)
        expected, _ = ddim.step(denoise, schedule, expected, t, s, None, torch.randn_like)
        torch.testing.assert_close(x, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"order": 4}, r"order must be from 1 to 3 \(got 4\)"),
        ({"variant": "bh3"}, r"variant must be bh1 or bh2 \(got bh3\)"),
    ],
)
def test_another_order_or_variant_is_refused_with_what_is_allowed(options, told):
    with pytest.raises(ConfigError, match=told):
        UniPC(5, Trailing(), **options)
