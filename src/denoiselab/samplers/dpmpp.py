"""DPM-Solver++ (Lu 2022b): exponential integrators for the data prediction, of order 2 in log-SNR.

With l = log(alpha/sigma), which is half of log-SNR, and h = l_s - l_t, the probability-flow ODE has the exact solution

    x_s = sigma_s/sigma_t x_t + sigma_s int_{l_t}^{l_s} exp(l) x0_hat(l) dl                (its proposition 4.1)

and with x0_hat replaced by a constant D it is x_s = sigma_s/sigma_t x_t + alpha_s (1 - exp(-h)) D. With D = x0_hat at t
that is DDIM; the solvers below differ in how they estimate x0_hat at the middle of the step. Where h is infinite (at
sigma_s = 0, or alpha_t = 0 where log-SNR starts at -infinity) there is no middle: the step is of first order.
"""

from typing import Any

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.limits import Count, Share, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched, half_log_snr_step
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing


class DPMpp2M(Sampler):
    """2M, multistep (algorithm 2): the middle is extrapolated from this step's x0_hat and the last one's.

    One evaluation a step. The step from t = 1 is of first order, and so is the last, to sigma = 0, always: that is what
    "lower_order_final" asks for elsewhere. The state is (x0_hat, h) of the last step.
    """

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        h = half_log_snr_step(schedule, t, s)
        if h == 0:
            return x, state
        sigma_t, (alpha_s, sigma_s) = schedule(t).sigma, schedule(s)
        x0 = denoise(x, batched(t, x)).x0
        D = _middle(x0, h, state)
        return sigma_s / sigma_t * x - alpha_s * torch.expm1(-h) * D, (x0, h)


class DPMpp2MSDE(Sampler):
    """SDE-DPM-Solver++ 2M, in its midpoint form: it adds noise; eta = 0 is 2M, eta = 1 the paper's reverse SDE.

    Over a step the noise already there shrinks by exp(-eta h) besides, and as much new noise takes its place. One
    evaluation and one draw a step; the first-order step with eta = 1 is DDPM with the small variance. First order where
    2M is.
    """

    @checked
    def __init__(self, steps: Count, spacing: Spacing, eta: Share = 1.0) -> None:
        super().__init__(steps, spacing)
        self.eta = eta

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        h = half_log_snr_step(schedule, t, s)
        if h == 0:
            return x, state
        sigma_t, (alpha_s, sigma_s) = schedule(t).sigma, schedule(s)
        x0 = denoise(x, batched(t, x)).x0
        D = _middle(x0, h, state)
        eta_h = self.eta * h if self.eta > 0 else torch.zeros_like(h)  # h may be infinite
        added = sigma_s * torch.sqrt(-torch.expm1(-2 * eta_h))
        x = sigma_s / sigma_t * torch.exp(-eta_h) * x - alpha_s * torch.expm1(-h - eta_h) * D
        return (x + added * noise(x) if added > 0 else x), (x0, h)


def _middle(x0: Tensor, h: Tensor, state: tuple[Tensor, Tensor] | None) -> Tensor:
    """x0_hat in the middle of the step, linear in log-SNR through the last two; an infinite last h has no slope."""
    if state is None or h.isinf():
        return x0
    last_x0, last_h = state
    r = last_h / h
    return x0 + (x0 - last_x0) / (2 * r)


class DPMpp2S(Sampler):
    """2S, singlestep (algorithm 1 with r = 1/2): x0_hat is evaluated in the middle, at a first-order step's end u.

    Two evaluations a step, one at either singular end: 2 steps - 1 in all, or one less where it starts at alpha = 0.
    """

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        h = half_log_snr_step(schedule, t, s)
        if h == 0:
            return x, None
        sigma_t, (alpha_s, sigma_s) = schedule(t).sigma, schedule(s)
        D = denoise(x, batched(t, x)).x0
        if h.isfinite():
            middle = schedule.time(schedule.log_snr(t) + h)
            alpha, sigma = schedule(middle)
            u = sigma / sigma_t * x - alpha * torch.expm1(-h / 2) * D
            D = denoise(u, batched(middle, u)).x0
        return sigma_s / sigma_t * x - alpha_s * torch.expm1(-h) * D, None
