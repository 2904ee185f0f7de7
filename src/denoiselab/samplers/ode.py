r"""The probability-flow ODE by an adaptive Runge-Kutta method of order 5 (Dormand & Prince 1980, 5(4), "RK45").

With $\tan\varphi = \sigma/\alpha$ every schedule has the same ODE on the circle,

$$u = x/\sqrt{\alpha^2 + \sigma^2}, \qquad
\frac{du}{d\varphi} = \cos(\varphi)\,\hat\epsilon - \sin(\varphi)\,\hat x_0,$$

which is that of v-prediction (Salimans & Ho 2022, arXiv:2202.00512, eq. 9) and regular at both ends: at $\alpha = 0$,
$\varphi = \pi/2$, it needs $\hat x_0$ alone. The schedule only names the levels, $t$ being the time where log-SNR is
$-2 \log\tan\varphi$, so kinks of the schedule are not kinks of the solution.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.limits import Count, EarlyTime, Positive, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler
from denoiselab.schedules import Level, Schedule, like
from denoiselab.spacings import Spacing

# A stage: its place in the step, and the weights of the slopes before it. The last is the step itself, of order 5.
STAGES = (
    (1 / 5, (1 / 5,)),
    (3 / 10, (3 / 40, 9 / 40)),
    (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
    (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
    (1.0, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
    (1.0, (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)),
)
PLACES = tuple(dict.fromkeys(place for place, _ in STAGES))
# The step of order 5 minus that of order 4, over all seven slopes.
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class ODE(Sampler[None]):
    """Solves the ODE to the tolerances `rtol` and `atol`, with a step size for each sample.

    A step is repeated with a smaller size where the root mean square of its estimated error over atol + rtol |u| is
    above 1. No sample depends on its batch, but all are evaluated until the slowest is done. Returns x0_hat at `t_min`,
    or at the last time of the grid above 0 if that is smaller.

    The sampler's `steps` only divide the path into pieces, after each of which `on_step` is called. Raises ConfigError
    for a tolerance that is not above 0 and for a t_min outside (0, 1).
    """

    @checked
    def __init__(
        self, steps: Count, spacing: Spacing, rtol: Positive = 1e-4, atol: Positive = 1e-4, t_min: EarlyTime = 1e-5
    ) -> None:
        super().__init__(steps, spacing)
        self.rtol, self.atol, self.t_min = rtol, atol, t_min

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: None, noise: NoiseFn
    ) -> tuple[Tensor, None]:
        """Takes x: (B, ...) from t > 0 to any s, lower or higher; s = 0 means x0_hat at `t_min`."""
        end = s if s > 0 else t.clamp(max=self.t_min)
        x = self.solve(denoise, schedule, x, t, end)
        return (x if s > 0 else denoise(x, end.expand(len(x))).x0), None

    def solve(self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Takes x: (B, ...) from time t > 0 to time s > 0."""

        def at(phi: Tensor) -> tuple[Tensor, Level]:
            """The times (B,) with these angles, and their level."""
            # Rounding can take an angle above pi/2, where the tangent is negative.
            time = schedule.time(-2 * torch.log(torch.tan(phi.clamp(max=math.pi / 2))))
            return time, schedule(time)

        def slope(u: Tensor, time: Tensor, level: Level) -> Tensor:
            """du/dphi, of the shape of u: (B, ...)."""
            r = torch.hypot(*level)
            prediction = denoise(like(r, u) * u, time)
            cos, sin = (like(part / r, u) for part in level)
            return cos * prediction.eps - sin * prediction.x0

        at_t, (alpha_s, sigma_s) = Level(*(part.expand(len(x)) for part in schedule(t))), schedule(s)
        phi, end = torch.atan2(at_t.sigma, at_t.alpha), torch.atan2(sigma_s, alpha_s)
        if (phi == end).all():  # past the end of a schedule that was cut short
            return x
        u, h = x / like(torch.hypot(*at_t), x), end - phi
        first = slope(u, t.expand(len(x)), at_t)
        while (phi != end).any():
            last = (end - phi).abs() <= h.abs()
            h = torch.where(last, end - phi, h)  # 0 for a sample that is done
            slopes, places = [first], {place: at(phi + place * h) for place in PLACES}
            for place, weights in STAGES:
                new = u + like(h, u) * _combined(weights, slopes)
                slopes.append(slope(new, *places[place]))
            error = self._error(like(h, u) * _combined(ERROR, slopes), u, new)
            accepted = ~(error > 1)  # NaN too, which whoever receives the samples reports
            phi = torch.where(accepted, torch.where(last, end, phi + h), phi)
            keep = like(accepted, u) > 0
            u, first = torch.where(keep, new, u), torch.where(keep, slopes[-1], first)
            h = h * (0.9 * torch.exp(-torch.log(error) / 5)).nan_to_num(5.0).clamp(0.2, 5.0)
        return torch.hypot(alpha_s, sigma_s) * u

    def _error(self, error: Tensor, u: Tensor, new: Tensor) -> Tensor:
        """The error in units of the tolerance: (B,), float64, on the CPU."""
        allowed = self.atol + self.rtol * torch.maximum(u.abs(), new.abs())
        return (error / allowed).reshape(len(u), -1).square().mean(1).sqrt().to("cpu", torch.float64)


def _combined(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    return sum((w * k for w, k in zip(weights, slopes, strict=True) if w != 0), torch.zeros(()))
