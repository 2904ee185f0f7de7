r"""DPM-Solver++ (Lu 2022, arXiv:2211.01095): exponential integrators for the data prediction, of order 2 in log-SNR.

With $\ell = \log(\alpha/\sigma)$, half of log-SNR, and $h = \ell_s - \ell_t$, the probability-flow ODE has the exact
solution (proposition 4.1)

$$x_s = \frac{\sigma_s}{\sigma_t} x_t + \sigma_s \int_{\ell_t}^{\ell_s} e^{\ell}\,\hat x_0(\ell)\,d\ell,$$

which for a constant $\hat x_0 = D$ is $x_s = (\sigma_s/\sigma_t)\,x_t + \alpha_s (1 - e^{-h}) D$. With $D$ taken at
$t$ that is DDIM; the solvers below differ in how they estimate $\hat x_0$ at the midpoint of the step. Where $h$ is
infinite ($\sigma_s = 0$, or $\alpha_t = 0$ where log-SNR starts at $-\infty$) there is no midpoint, and the step is of
first order.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.limits import Count, Share, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched, half_log_snr, half_log_snr_step
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing


class Last(NamedTuple):
    """What a multistep solver keeps of the last step."""

    x0: Tensor  # x0_hat at its start: (B, ...)
    h: Tensor  # its step in half log-SNR, a scalar


class DPMpp2M(Sampler[Last]):
    """2M, multistep (algorithm 2): extrapolates the midpoint from x0_hat of this step and of the last one.

    One evaluation a step. The first step from t = 1 is of first order, and so is always the last, to sigma = 0, which
    other libraries call "lower_order_final".
    """

    def step(
        self,
        denoise: DenoiseFn,
        schedule: Schedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: Last | None,
        noise: NoiseFn,
    ) -> tuple[Tensor, Last | None]:
        (_, sigma_t), (alpha_s, sigma_s) = at_t, at_s = schedule(t), schedule(s)
        h = half_log_snr_step(at_t, at_s)
        if h == 0:
            return x, state
        x0 = denoise(x, batched(t, x)).x0
        D = _midpoint(x0, h, state)
        return sigma_s / sigma_t * x - alpha_s * torch.expm1(-h) * D, Last(x0, h)


class DPMpp2MSDE(Sampler[Last]):
    r"""SDE-DPM-Solver++ 2M in its midpoint form: eta = 0 is 2M, eta = 1 the reverse SDE of the paper.

    $$x_s = \frac{\sigma_s}{\sigma_t} e^{-\eta h} x_t + \alpha_s (1 - e^{-h - \eta h}) D
    + \sigma_s \sqrt{1 - e^{-2 \eta h}}\,z$$

    One evaluation and one draw a step; the first-order step with eta = 1 is DDPM with the small variance. First order
    where 2M is.
    """

    @checked
    def __init__(self, steps: Count, spacing: Spacing, eta: Share = 1.0) -> None:
        super().__init__(steps, spacing)
        self.eta = eta

    def step(
        self,
        denoise: DenoiseFn,
        schedule: Schedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: Last | None,
        noise: NoiseFn,
    ) -> tuple[Tensor, Last | None]:
        (_, sigma_t), (alpha_s, sigma_s) = at_t, at_s = schedule(t), schedule(s)
        h = half_log_snr_step(at_t, at_s)
        if h == 0:
            return x, state
        x0 = denoise(x, batched(t, x)).x0
        D = _midpoint(x0, h, state)
        eta_h = self.eta * h if self.eta > 0 else torch.zeros_like(h)  # h may be infinite, and 0 * inf is NaN
        added = sigma_s * torch.sqrt(-torch.expm1(-2 * eta_h))
        x = sigma_s / sigma_t * torch.exp(-eta_h) * x - alpha_s * torch.expm1(-h - eta_h) * D
        return (x + added * noise(x) if added > 0 else x), Last(x0, h)


def _midpoint(x0: Tensor, h: Tensor, last: Last | None) -> Tensor:
    """x0_hat at the midpoint, linear in log-SNR through the last two; after an infinite step there is no slope."""
    if last is None or h.isinf():
        return x0
    last_x0, last_h = last
    r = last_h / h
    return x0 + (x0 - last_x0) / (2 * r)


class DPMpp2S(Sampler[None]):
    """2S, singlestep (algorithm 1 with r = 1/2): evaluates x0_hat at the midpoint u, which a first-order step reaches.

    Two evaluations a step, one at either singular end: 2 steps - 1 in all, or one fewer from alpha = 0.
    """

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: None, noise: NoiseFn
    ) -> tuple[Tensor, None]:
        (_, sigma_t), (alpha_s, sigma_s) = at_t, at_s = schedule(t), schedule(s)
        h = half_log_snr_step(at_t, at_s)
        if h == 0:
            return x, None
        D = denoise(x, batched(t, x)).x0
        if h.isfinite():
            midpoint = schedule.time(2 * half_log_snr(at_t) + h)
            alpha, sigma = schedule(midpoint)
            u = sigma / sigma_t * x - alpha * torch.expm1(-h / 2) * D
            D = denoise(u, batched(midpoint, u)).x0
        return sigma_s / sigma_t * x - alpha_s * torch.expm1(-h) * D, None
