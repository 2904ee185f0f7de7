"""UniPC (Zhao 2023): a multistep predictor and a corrector of one form, for the data prediction in log-SNR.

With l = log(alpha/sigma), h = l_s - l_t and m = x0_hat, let m be known at l_t + r_k h too (r_k < 0: earlier steps;
r_k = 1: the end of the step, which is known once the next step has begun). With D_k = m_k - m_0 both parts are

    x_s = sigma_s/sigma_t x_t + alpha_s (1 - exp(-h)) m_0 + alpha_s B(h) sum_k rho_k D_k/r_k,
    sum_k rho_k r_k^(i-1) = g_i/B(h),   g_i = h int_0^1 exp(-h (1 - r)) r^i dr,   i = 1, 2, ...   (its theorem 3.1)

which is exact where m is a polynomial in l through all of the m_k. B(h) cancels there; but with one D_k alone rho = 1/2
is taken, as its authors do, right to the order and with B(h) making the difference: h (bh1) or 1 - exp(-h) (bh2).
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.limits import Count, Limit, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing

B: dict[str, Callable[[Tensor], Tensor]] = {"bh1": lambda h: h, "bh2": lambda h: -torch.expm1(-h)}
MAX_ORDER = 3


class Known(NamedTuple):
    """m at a time that the denoiser was asked at."""

    half_log_snr: Tensor
    sigma: Tensor
    m: Tensor


class State(NamedTuple):
    """What the last step leaves."""

    steps: int  # taken so far
    x: Tensor  # corrected, where that step began
    known: tuple[Known, ...]  # what it used, its own m first; none where nothing is to be corrected or extrapolated


class UniPC(Sampler):
    """UniPC-p with p = `order`: its error is of order p + 1. One evaluation a step: the corrector takes the next one's.

    `variant` is bh1 or bh2. Where a method of order p is to be seen, its start counts: the first step is of order 1,
    corrected to 2, so for p = 3 order 4 needs a short first step. `lower_order_final` keeps the order at or below the
    number of steps left, which steadies few steps; the last, to sigma = 0, is of first order always, as is that from
    alpha = 0, after which the multistep begins anew.
    """

    @checked
    def __init__(
        self,
        steps: Count,
        spacing: Spacing,
        order: Annotated[int, Limit(1, MAX_ORDER, whole=True)] = 2,
        variant: Literal["bh1", "bh2"] = "bh2",
        lower_order_final: bool = True,
    ) -> None:
        super().__init__(steps, spacing)
        self.order, self.variant, self.lower_order_final = order, variant, lower_order_final

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        steps, last_x, known = state or State(0, x, ())
        l_t, l_s = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
        if l_s <= l_t:
            return x, State(steps + 1, last_x, known)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        now = Known(l_t, sigma_t, denoise(x, batched(t, x)).x0)
        if known:
            x = self.update(last_x, (*known, now), l_t, alpha_t, sigma_t)
        left = self.steps - steps if self.lower_order_final else self.order
        order = 1 if sigma_s == 0 or alpha_t == 0 else min(self.order, left, len(known) + 1)
        used = (now, *known)[:order]
        return self.update(x, used, l_s, alpha_s, sigma_s), State(steps + 1, x, () if alpha_t == 0 else used)

    def update(self, x: Tensor, known: tuple[Known, ...], l_s: Tensor, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
        """From x where m is known first to x_s, with what is known elsewhere."""
        (l_t, sigma_t, m_0), others = known[0], known[1:]
        h = l_s - l_t
        x = sigma_s / sigma_t * x - alpha_s * torch.expm1(-h) * m_0
        if not others:
            return x
        r, B_h = torch.stack([(other.half_log_snr - l_t) / h for other in others]), B[self.variant](h)
        if len(others) == 1:
            rho = torch.full_like(r, 0.5)
        else:
            g = [-torch.expm1(-h)]
            for i in range(1, len(others) + 1):
                g.append(1 - i * g[-1] / h)  # by parts
            R = torch.stack([r**i for i in range(len(others))])
            rho = torch.linalg.solve(R, torch.stack(g[1:]) / B_h)
        for rho_k, r_k, other in zip(rho, r, others, strict=True):
            x = x + alpha_s * B_h * rho_k / r_k * (other.m - m_0)
        return x
