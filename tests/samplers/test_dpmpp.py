import pytest
import torch

from cases import SCHEDULES, SPACINGS, moments, over
from denoiselab.analytic import Gaussian
from denoiselab.errors import ConfigError
from denoiselab.samplers import DDIM, DDPM, DPMpp2M, DPMpp2MSDE, DPMpp2S
from denoiselab.schedules import Flow
from denoiselab.spacings import Trailing

SOLVERS = {"2m": DPMpp2M, "2m_sde_0": lambda n, spacing: DPMpp2MSDE(n, spacing, eta=0.0), "2s": DPMpp2S}
TIMES = torch.tensor([0.7, 0.6, 0.45], dtype=torch.float64)


def first_order(schedule, x, x0, t, s):
    """Lu 2022b, eq. 9 with k = 1, in its own letters: lambda there is half of log-SNR."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    h = torch.log(alpha_s / sigma_s) - torch.log(alpha_t / sigma_t)
    return sigma_s / sigma_t * x - alpha_s * (torch.exp(-h) - 1) * x0, h


@over("schedule", SCHEDULES)
@over("solver", ["2m", "2m_sde_0"])
def test_the_first_step_of_2m_is_ddim_s(schedule, solver):
    schedule, x = SCHEDULES[schedule], torch.randn(7, dtype=torch.float64)
    denoise = Gaussian(schedule, 0.3, 0.5)
    for t, s in torch.tensor([[1.0, 0.8], [0.5, 0.3], [0.3, 0.0]], dtype=torch.float64):
        found, expected = (
            make(1, Trailing()).step(denoise, schedule, x, t, s, None, torch.randn_like)[0]
            for make in (SOLVERS[solver], DDIM)
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@over("schedule", SCHEDULES)
def test_the_second_step_of_2m_is_algorithm_2_of_the_paper(schedule):
    schedule, x = SCHEDULES[schedule], torch.randn(7, dtype=torch.float64)
    denoise, sampler, (a, b, c) = Gaussian(schedule, 0.3, 0.5), DPMpp2M(2, Trailing()), TIMES
    x_b, state = sampler.step(denoise, schedule, x, a, b, None, torch.randn_like)
    found, _ = sampler.step(denoise, schedule, x_b, b, c, state, torch.randn_like)
    now, last = denoise(x_b, b.expand(7)).x0, denoise(x, a.expand(7)).x0
    _, h_last = first_order(schedule, x, last, a, b)
    _, h = first_order(schedule, x_b, now, b, c)
    r = h_last / h
    D = (1 + 1 / (2 * r)) * now - 1 / (2 * r) * last
    expected, _ = first_order(schedule, x_b, D, b, c)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@over("schedule", SCHEDULES)
def test_a_step_of_2s_is_algorithm_1_of_the_paper_with_r_one_half(schedule):
    schedule, x = SCHEDULES[schedule], torch.randn(7, dtype=torch.float64)
    denoise, (t, s, _) = Gaussian(schedule, 0.3, 0.5), TIMES
    middle = schedule.time((schedule.log_snr(t) + schedule.log_snr(s)) / 2)
    x0 = denoise(x, t.expand(7)).x0
    u, half = first_order(schedule, x, x0, t, middle)
    expected, h = first_order(schedule, x, denoise(u, middle.expand(7)).x0, t, s)
    found, _ = DPMpp2S(1, Trailing()).step(denoise, schedule, x, t, s, None, torch.randn_like)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    assert float(half) == pytest.approx(float(h) / 2, rel=1e-10)


@over("schedule", SCHEDULES)
@over("spacing", SPACINGS)
def test_2m_sde_with_eta_zero_is_2m(schedule, spacing):
    schedule, spacing = SCHEDULES[schedule], SPACINGS[spacing]
    denoise, x_T = Gaussian(schedule, 0.3, 0.5), torch.randn(7, dtype=torch.float64) * schedule.prior_std
    found, expected = (SOLVERS[name](8, spacing)(denoise, schedule, x_T) for name in ("2m_sde_0", "2m"))
    assert torch.equal(found, expected)


@over("schedule", SCHEDULES)
def test_the_first_step_of_2m_sde_with_eta_one_is_ddpm_s(schedule):
    schedule, (x, z) = SCHEDULES[schedule], torch.randn(2, 7, dtype=torch.float64)
    denoise = Gaussian(schedule, 0.3, 0.5)
    for t, s in torch.tensor([[1.0, 0.8], [0.5, 0.3], [0.3, 0.0]], dtype=torch.float64):
        found, expected = (
            make(1, Trailing()).step(denoise, schedule, x, t, s, None, lambda x: z)[0] for make in (DPMpp2MSDE, DDPM)
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@over("schedule", ["linear", "cosine", "flow", "edm"])
def test_the_second_step_of_2m_sde_is_that_of_the_paper_in_its_midpoint_form(schedule):
    # sigma_s/sigma_t e^-h x + alpha_s (1 - e^-2h) (m_0 + D_1/2) + sigma_s sqrt(1 - e^-2h) z, D_1 = (m_0 - m_1)/r.
    schedule, (x, z) = SCHEDULES[schedule], torch.randn(2, 7, dtype=torch.float64)
    denoise, sampler, (a, b, c) = Gaussian(schedule, 0.3, 0.5), DPMpp2MSDE(2, Trailing()), TIMES
    x_b, state = sampler.step(denoise, schedule, x, a, b, None, lambda x: z)
    found, _ = sampler.step(denoise, schedule, x_b, b, c, state, lambda x: z)
    now, last = denoise(x_b, b.expand(7)).x0, denoise(x, a.expand(7)).x0
    (_, sigma_b), (alpha_c, sigma_c) = schedule(b), schedule(c)
    h_last, h = (schedule.log_snr(TIMES[1:]) - schedule.log_snr(TIMES[:-1])) / 2
    D = now + (now - last) / (h_last / h) / 2
    expected = sigma_c / sigma_b * torch.exp(-h) * x_b + alpha_c * (1 - torch.exp(-2 * h)) * D
    expected = expected + sigma_c * torch.sqrt(1 - torch.exp(-2 * h)) * z
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@over("solver", SOLVERS)
@over("name", ["flow", "linear_to_zero"])
def test_after_alpha_zero_a_solver_begins_anew(name, solver):
    # From log-SNR -infinity there is no slope of x0_hat: both steps are DDIM's, but for the middle of 2S's second.
    schedule, x = SCHEDULES[name], torch.randn(7, dtype=torch.float64)
    denoise, sampler, ddim = Gaussian(schedule, 0.3, 0.5), SOLVERS[solver](3, Trailing()), DDIM(3, Trailing())
    t, s, u = torch.tensor([1.0, 0.7, 0.4], dtype=torch.float64)
    found, state = sampler.step(denoise, schedule, x, t, s, None, torch.randn_like)
    expected, _ = ddim.step(denoise, schedule, x, t, s, None, torch.randn_like)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)
    if solver != "2s":
        found, _ = sampler.step(denoise, schedule, found, s, u, state, torch.randn_like)
        expected, _ = ddim.step(denoise, schedule, expected, s, u, None, torch.randn_like)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)


def test_noise_is_drawn_once_a_step_that_adds_any():
    schedule, drawn = Flow(), []

    def noise(x):
        drawn.append(x)
        return torch.randn_like(x)

    for eta, count in (0.0, 0), (0.5, 5), (1.0, 5):
        drawn.clear()
        DPMpp2MSDE(6, Trailing(), eta)(Gaussian(schedule), schedule, torch.randn(3).double(), noise)
        assert len(drawn) == count


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_every_eta_has_the_right_law_at_every_time_for_data_of_one_point(schedule, eta):
    # x0_hat does not change then, and the rest is solved exactly.
    schedule, point = SCHEDULES[schedule], 0.3
    alpha, sigma = map(float, schedule(1.0))
    denoise = Gaussian(schedule, point, std=0.0)
    for s, mean, std in moments(DPMpp2MSDE(10, Trailing(), eta), denoise, schedule, alpha * point, sigma):
        alpha, sigma = map(float, schedule(s))
        assert mean == pytest.approx(alpha * point, abs=1e-13)
        assert std == pytest.approx(sigma, rel=1e-11, abs=1e-14)


def test_an_eta_beyond_one_is_refused():
    with pytest.raises(ConfigError, match=r"eta must be from 0 to 1 \(got 2\)"):
        DPMpp2MSDE(3, Trailing(), eta=2)
