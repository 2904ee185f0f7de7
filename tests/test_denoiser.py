import pytest
import torch
from torch import nn

from cases import PARAMETERIZATIONS, SCHEDULES, grid, over_pairs
from denoiselab.conditioning import Cond
from denoiselab.denoiser import Denoiser
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.parameterizations import X0, Eps, V
from denoiselab.schedules import Flow, like


class Answers(nn.Module):
    """A backbone that gives a fixed answer and keeps what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x_t, t, cond):
        self.asked = x_t, t, cond
        return self.answer


def noised(schedule, t, dtype=torch.float64):
    x0, eps = torch.randn(2, len(t), 3, 2, dtype=dtype)
    alpha, sigma = schedule(t)
    return x0, eps, like(alpha, x0) * x0 + like(sigma, x0) * eps


@over_pairs()
def test_from_the_exact_target_come_the_exact_x0_and_eps(schedule, parameterization):
    schedule, parameterization, t = SCHEDULES[schedule], PARAMETERIZATIONS[parameterization], grid(200)
    x0, eps, x_t = noised(schedule, t)
    found = Denoiser(Answers(parameterization.target(x0, eps, schedule, t)), schedule, parameterization)(x_t, t)
    # Rounding is amplified by 1/alpha or 1/sigma, up to 20,000 at the end of the cosine table.
    torch.testing.assert_close(found.x0, x0, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.eps, eps, rtol=0, atol=1e-11)


@over_pairs()
def test_any_output_is_a_prediction_of_the_same_x_t(schedule, parameterization):
    schedule, t = SCHEDULES[schedule], grid(200)
    _, _, x_t = noised(schedule, t)
    output = torch.randn_like(x_t)
    found = Denoiser(Answers(output), schedule, PARAMETERIZATIONS[parameterization])(x_t, t)
    alpha, sigma = (like(part, x_t) for part in schedule(t))
    # alpha x0_hat is of the size of x_t; sigma eps_hat is x_t - alpha x0_hat, where 1 - alpha c_skip loses digits.
    torch.testing.assert_close(alpha * found.x0 + sigma * found.eps, x_t, rtol=0, atol=1e-13)


@over_pairs()
def test_coefficients_are_made_in_float64_for_a_float32_state(schedule, parameterization):
    # With the coefficients rounded once, float32's answer differs by its own roundings alone: 1e-7 of the terms.
    schedule, parameterization, t = (
        SCHEDULES[schedule],
        PARAMETERIZATIONS[parameterization],
        grid(200, low=0.01, high=0.9),
    )
    _, _, x_t = noised(schedule, t)
    output = torch.randn_like(x_t)
    exact = Denoiser(Answers(output), schedule, parameterization)(x_t, t)
    found = Denoiser(Answers(output.float()), schedule, parameterization)(x_t.float(), t)
    for rounded, value, (skip, out) in zip(
        found,
        exact,
        (parameterization.coefficients(schedule, t), parameterization.eps_coefficients(schedule, t)),
        strict=True,
    ):
        terms = (like(skip, x_t) * x_t).abs() + (like(out, x_t) * output).abs()
        assert rounded.dtype == torch.float32
        assert ((rounded - value).abs() <= 3e-7 * terms).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_prediction_keeps_the_state_s_dtype_whatever_the_network_runs_in(dtype):
    x_t = torch.randn(2, 3)
    found = Denoiser(Answers(torch.ones(2, 3, dtype=dtype)), SCHEDULES["cosine"], V())(x_t, grid(2))
    assert found.x0.dtype == found.eps.dtype == torch.float32


def test_the_backbone_is_handed_x_t_t_and_the_condition_as_they_are():
    backbone = Answers(torch.zeros(2, 3))
    denoiser, x_t, t, cond = (
        Denoiser(backbone, SCHEDULES["cosine"], V()),
        torch.randn(2, 3),
        grid(2),
        Cond(torch.ones(2, 1)),
    )
    denoiser(x_t, t, cond)
    assert [a is b for a, b in zip(backbone.asked, (x_t, t, cond), strict=True)] == [True, True, True]
    denoiser(x_t, t)
    assert backbone.asked[2] == Cond(None, None, None)


def test_eps_on_flow_is_refused_with_what_works_instead():
    with pytest.raises(IncompatibleError, match=r"Eps-prediction .* Flow has alpha = 0; predict v or x0.*log_snr_min"):
        Denoiser(nn.Identity(), Flow(), Eps())
    assert issubclass(IncompatibleError, ConfigError)


@pytest.mark.parametrize(
    ("schedule", "parameterization"), [(Flow(log_snr_min=-15.0), Eps()), (Flow(), V()), (Flow(), X0())]
)
def test_what_the_refusal_recommends_is_accepted(schedule, parameterization):
    Denoiser(nn.Identity(), schedule, parameterization)
