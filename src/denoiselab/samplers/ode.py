"""The probability-flow ODE by an adaptive Runge-Kutta method of order 5 (Dormand & Prince 1980, 5(4), "RK45").

With tan(phi) = sigma/alpha every schedule has the same ODE on the circle,

    u = x/sqrt(alpha^2 + sigma^2),   du/dphi = cos(phi) eps_hat - sin(phi) x0_hat,

which is v-prediction's (Salimans & Ho 2022, eq. 9) and regular at both ends: at alpha = 0, phi = pi/2, it needs x0_hat
alone. The schedule only names the levels, t = time(-2 log tan(phi)), so that its kinks are none of the solution's.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.limits import Count, EarlyTime, Positive, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler
from denoiselab.schedules import Schedule, like
from denoiselab.spacings import Spacing

# A stage: its place in the step, and the weights of the slopes before it. The last one is the step itself, of order 5.
STAGES = (
    (1 / 5, (1 / 5,)),
    (3 / 10, (3 / 40, 9 / 40)),
    (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
    (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
    (1.0, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
    (1.0, (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)),
)
# The step of order 5 less that of order 4, over all seven slopes.
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class ODE(Sampler):
    """Each sample has a step size of its own, so that it does not depend on the batch; a step is tried again, smaller,
    where the root mean square of its estimated error over atol + rtol |u| is above 1. Ends with x0_hat at `t_min`,
    or at the grid's last time above 0 where that is smaller.

    The sampler's `steps` only cut the way in pieces, after which `on_step` is called. All samples are evaluated until
    the slowest is done. Raises ConfigError for a tolerance that is not above 0 or a t_min outside (0, 1).
    """

    @checked
    def __init__(
        self, steps: Count, spacing: Spacing, rtol: Positive = 1e-4, atol: Positive = 1e-4, t_min: EarlyTime = 1e-5
    ) -> None:
        super().__init__(steps, spacing)
        self.rtol, self.atol, self.t_min = rtol, atol, t_min

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        """From any time to any other, down or up; from s = 0 only down."""
        end = s if s > 0 else t.clamp(max=self.t_min)
        x = self.solve(denoise, schedule, x, t, end)
        return (x if s > 0 else denoise(x, end.expand(len(x))).x0), None

    def solve(self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x at time t > 0 -> x at time s > 0."""

        def slope(u: Tensor, phi: Tensor) -> Tensor:
            """du/dphi of the shape of u: (B, ...), at phi: (B,)."""
            # A rounding beyond pi/2 the tangent is negative.
            time = schedule.time(-2 * torch.log(torch.tan(phi.clamp(max=math.pi / 2))))
            level = schedule(time)
            r = torch.hypot(*level)
            prediction = denoise(like(r, u) * u, time)
            cos, sin = (like(part / r, u) for part in level)
            return cos * prediction.eps - sin * prediction.x0

        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        end = torch.atan2(sigma_s, alpha_s)
        phi = torch.atan2(sigma_t, alpha_t).expand(len(x))
        if (phi == end).all():  # past the end of a schedule ended early, where nothing moves
            return x
        u, h = x / torch.hypot(alpha_t, sigma_t), end - phi
        first = slope(u, phi)
        while (phi != end).any():
            last = (end - phi).abs() <= h.abs()
            h = torch.where(last, end - phi, h)  # 0 for a sample that is done
            slopes = [first]
            for place, weights in STAGES:
                new = u + like(h, u) * _combined(weights, slopes)
                slopes.append(slope(new, phi + place * h))
            error = self._error(like(h, u) * _combined(ERROR, slopes), u, new)
            accepted = ~(error > 1)  # NaN too: it is told by who gets the samples
            phi = torch.where(accepted, torch.where(last, end, phi + h), phi)
            keep = like(accepted, u) > 0
            u, first = torch.where(keep, new, u), torch.where(keep, slopes[-1], first)
            h = h * (0.9 * torch.exp(-torch.log(error) / 5)).nan_to_num(5.0).clamp(0.2, 5.0)
        return torch.hypot(alpha_s, sigma_s) * u

    def _error(self, error: Tensor, u: Tensor, new: Tensor) -> Tensor:
        """(B,), float64 on the CPU, in units of the tolerance."""
        allowed = self.atol + self.rtol * torch.maximum(u.abs(), new.abs())
        return (error / allowed).reshape(len(u), -1).square().mean(1).sqrt().to("cpu", torch.float64)


def _combined(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    return sum((w * k for w, k in zip(weights, slopes, strict=True) if w != 0), torch.zeros(()))
