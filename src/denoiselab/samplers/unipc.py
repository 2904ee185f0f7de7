r"""UniPC (Zhao 2023, arXiv:2302.04867): a multistep predictor and a corrector, for the data prediction in log-SNR.

With $\ell = \log(\alpha/\sigma)$, $h = \ell_s - \ell_t$ and $m = \hat x_0$, let $m_k$ be known at $\ell_t + r_k h$ too
($r_k < 0$: earlier steps; $r_k = 1$: the end of the step, known once the next step has evaluated it). With
$D_k = m_k - m_0$ both parts are (theorem 3.1)

$$x_s = \frac{\sigma_s}{\sigma_t} x_t + \alpha_s (1 - e^{-h})\,m_0 + \alpha_s B(h) \sum_k \rho_k D_k/r_k,$$

$$\sum_k \rho_k r_k^{i-1} = g_i/B(h), \qquad g_i = h \int_0^1 e^{-h (1 - r)} r^i\,dr, \qquad i = 1, 2, \dots$$

which is exact where $m$ is a polynomial in $\ell$ through all $m_k$. $B(h)$ cancels there. A single $D_k$ takes
$\rho = 1/2$ instead, as in the authors' code, which keeps the order and lets $B(h)$ matter: $h$ (bh1) or $1 - e^{-h}$
(bh2).
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.limits import Count, Limit, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched, half_log_snr
from denoiselab.schedules import Level, Schedule
from denoiselab.spacings import Spacing

B: dict[str, Callable[[Tensor], Tensor]] = {"bh1": lambda h: h, "bh2": lambda h: -torch.expm1(-h)}
MAX_ORDER = 3


class Known(NamedTuple):
    """m at a time where the denoiser has been evaluated."""

    half_log_snr: Tensor
    sigma: Tensor
    m: Tensor  # (B, ...)


class History(NamedTuple):
    """What UniPC keeps of the last step."""

    steps: int  # taken so far
    x: Tensor  # corrected, where that step started: (B, ...)
    known: tuple[Known, ...]  # what it used, its own m first; empty where there is nothing to correct or extrapolate


class UniPC(Sampler[History]):
    """UniPC-p with p = `order`: its error is of order p + 1. One evaluation a step, which the corrector shares.

    `variant` is "bh1" or "bh2". The first step is of order 1, corrected to 2, so the full order 4 of p = 3 needs a
    short first step. `lower_order_final` keeps the order at or below the number of steps left, which stabilizes few
    steps. The last step, to sigma = 0, is always of first order, and so is one from alpha = 0, after which the history
    starts afresh.
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
        self,
        denoise: DenoiseFn,
        schedule: Schedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: History | None,
        noise: NoiseFn,
    ) -> tuple[Tensor, History | None]:
        steps, last_x, known = state or History(0, x, ())
        at_t, at_s = schedule(t), schedule(s)
        l_t = half_log_snr(at_t)
        if half_log_snr(at_s) <= l_t:
            return x, History(steps + 1, last_x, known)
        now = Known(l_t, at_t.sigma, denoise(x, batched(t, x)).x0)
        if known:
            x = self.update(last_x, (*known, now), at_t)
        left = self.steps - steps if self.lower_order_final else self.order
        order = 1 if at_s.sigma == 0 or at_t.alpha == 0 else min(self.order, left, len(known) + 1)
        used = (now, *known)[:order]
        return self.update(x, used, at_s), History(steps + 1, x, () if at_t.alpha == 0 else used)

    def update(self, x: Tensor, known: tuple[Known, ...], at_s: Level) -> Tensor:
        """Takes x: (B, ...) from where the first of `known` is to the level at s, with the others as D_k."""
        (l_t, sigma_t, m_0), others = known[0], known[1:]
        (alpha_s, sigma_s), h = at_s, half_log_snr(at_s) - l_t
        x = sigma_s / sigma_t * x - alpha_s * torch.expm1(-h) * m_0
        if not others:
            return x
        r, B_h = torch.stack([(other.half_log_snr - l_t) / h for other in others]), B[self.variant](h)
        if len(others) == 1:
            rho = torch.full_like(r, 0.5)
        else:
            g = [-torch.expm1(-h)]
            for i in range(1, len(others) + 1):
                g.append(1 - i * g[-1] / h)  # integration by parts
            R = torch.stack([r**i for i in range(len(others))])
            rho = torch.linalg.solve(R, torch.stack(g[1:]) / B_h)
        for rho_k, r_k, other in zip(rho, r, others, strict=True):
            x = x + alpha_s * B_h * rho_k / r_k * (other.m - m_0)
        return x
