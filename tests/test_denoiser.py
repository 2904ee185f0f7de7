import pytest
import torch
from torch import nn

from cases import PARAMETERIZATIONS, SCHEDULES, grid, over_pairs
from denoiselab.conditioning import Cond
from denoiselab.denoiser import Denoiser
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.parameterizations import X0, Eps, Mean, V
from denoiselab.schedules import VE, Cosine, Flow, Linear, SubVP, like


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
    # Rounding is amplified by the coefficients: 1/alpha, 1/sigma, and 1/c_0 of the mean, 2e7 at the most.
    largest = torch.stack(parameterization.inverse(schedule, t)).abs().amax(0)
    for part, truth in ((found.x0, x0), (found.eps, eps)):
        assert ((part - truth).abs() <= 1e-14 * like(1 + largest, x0) * (1 + x_t.abs())).all()


@over_pairs()
def test_any_output_is_a_prediction_of_the_same_x_t(schedule, parameterization):
    schedule, t = SCHEDULES[schedule], grid(200)
    _, _, x_t = noised(schedule, t)
    output = torch.randn_like(x_t)
    found = Denoiser(Answers(output), schedule, PARAMETERIZATIONS[parameterization])(x_t, t)
    alpha, sigma = (like(part, x_t) for part in schedule(t))
    size = (alpha * found.x0).abs() + (sigma * found.eps).abs() + x_t.abs()
    assert ((alpha * found.x0 + sigma * found.eps - x_t).abs() <= 1e-14 * size).all()


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
        found[:2],
        exact[:2],
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
    assert torch.equal(backbone.asked[0], x_t)
    assert torch.equal(backbone.asked[1], t)
    assert backbone.asked[2] is cond
    denoiser(x_t, t)
    assert backbone.asked[2] == Cond()


@over_pairs()
def test_the_backbone_is_handed_what_the_parameterization_says(schedule, parameterization):
    backbone, schedule, t = Answers(torch.zeros(20, 3, 2)), SCHEDULES[schedule], grid(20)
    parameterization = PARAMETERIZATIONS[parameterization]
    _, _, x_t = noised(schedule, t)
    Denoiser(backbone, schedule, parameterization)(x_t, t)
    c_in, label = parameterization.network_input(schedule, t)
    torch.testing.assert_close(backbone.asked[0], like(c_in, x_t) * x_t, rtol=0, atol=0)
    assert torch.equal(backbone.asked[1], label)


def test_a_learned_variance_is_the_second_half_of_the_channels_from_minus_one_to_one():
    answer = torch.cat([torch.ones(2, 3), torch.tensor([[-1.0, 0.0, 1.0]]).expand(2, 3)], 1)
    found = Denoiser(Answers(answer), SCHEDULES["cosine"], X0(), learns_variance=True)(torch.randn(2, 3), grid(2))
    assert torch.equal(found.x0, torch.ones(2, 3))
    assert found.variance[0].tolist() == [0.0, 0.5, 1.0]
    assert Denoiser(Answers(torch.ones(2, 3)), SCHEDULES["cosine"], X0())(torch.randn(2, 3), grid(2)).variance is None


def test_eps_on_flow_is_refused_with_what_works_instead():
    with pytest.raises(IncompatibleError, match=r"Eps-prediction .* Flow has alpha = 0; predict v or x0.*log_snr_min"):
        Denoiser(nn.Identity(), Flow(), Eps())
    assert issubclass(IncompatibleError, ConfigError)


@pytest.mark.parametrize("end", [-2.0, -3.0, -4.0, -6.0])
@pytest.mark.parametrize("schedule", [Cosine, Linear, Flow, SubVP, VE])
def test_mean_is_refused_where_the_level_stays(schedule, end):
    # b/D with a D that only rounding keeps from 0 would be 1e16.
    with pytest.raises(IncompatibleError, match="Mean-prediction says nothing"):
        Denoiser(nn.Identity(), schedule(log_snr_min=end), Mean())


@pytest.mark.parametrize(
    ("schedule", "parameterization"), [(Flow(log_snr_min=-15.0), Eps()), (Flow(), V()), (Flow(), X0())]
)
def test_what_the_refusal_recommends_is_accepted(schedule, parameterization):
    Denoiser(nn.Identity(), schedule, parameterization)
