r"""Likelihood by the probability-flow ODE, with its instantaneous change of variables.

Score-SDE (arXiv:2011.13456, §4.3, eq. 39). In $z = x/\sqrt{\alpha^2 + \sigma^2} = \cos\phi\,x_0 + \sin\phi\,\epsilon$,
$\tan\phi = \sigma/\alpha$, all schedules are the same and nothing is singular at $\alpha = 0$:
$dz/d\phi = \cos\phi\,\hat\epsilon - \sin\phi\,\hat x_0$. Steps are even in log-SNR, $\lambda = -2\log\tan\phi$, so that
$d\phi/d\lambda = -\tfrac12\sin\phi\cos\phi$, and

$$\log p_0(z_0) = \log N(z_1; 0, \sigma_\mathrm{prior}^2/(\alpha_1^2 + \sigma_1^2))
\quad + \int_0^1 \mathrm{div}(dz/d\lambda)\,d\lambda.$$

The divergence is exact, by one derivative per dimension, or Hutchinson's estimate $r^T (d/dz\,dz/d\lambda)\,r$ with
$r = \pm 1$ (Hutchinson 1989; FFJORD, arXiv:1810.01367, eq. 7), with the same r along a path.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.likelihood.likelihood import Likelihood, Nats
from denoiselab.likelihood.terms import HALF_BIN, density_nats, wide
from denoiselab.limits import Count, EarlyTime, Limit, Natural, checked
from denoiselab.randomness import generator
from denoiselab.schedules import Schedule, like

CLEAN = 0.01  # sigma/alpha
LOWEST = -20.0  # log-SNR at which the path ends if it runs to -infinity: alpha is 5e-5, and z is noise


class FlowODE(Likelihood):
    r"""Solves the ODE by `steps` of classical fourth-order Runge-Kutta; the error is the difference from half as many.

    The path begins at t_min with $z = \cos\phi\,x_0$, so the density is that of $x_0 + n\epsilon$ at $x_0$,
    $n = \sigma/\alpha$ at t_min (None: where n = 0.01, the same noise on every schedule), with an error of $O(n^2)$.
    Uniform noise dequantises levels within their bins of width 2/255: this adds log2(127.5) = 6.994 bits per dimension
    to a density's, and by Jensen's inequality the mean over the noise is an upper bound. probes: the number of r; None:
    the exact divergence, with D derivatives per evaluation. Raises ConfigError.
    """

    @checked
    def __init__(
        self,
        steps: Annotated[int, Limit(2, whole=True, multiple=2)] = 50,
        probes: Count | None = 1,
        t_min: EarlyTime | None = None,
        seed: Natural = 0,
    ) -> None:
        self.steps, self.probes, self.t_min, self.seed = steps, probes, t_min, seed
        self.words = {"steps": steps, "probes": probes, "t_min": t_min, "seed": seed}

    def __call__(
        self, denoise: DenoiseFn, schedule: Schedule, x0: Tensor, indices: Sequence[int], quantised: bool
    ) -> Nats:
        x, D = wide(x0), x0[0].numel()
        if quantised:
            x = x + HALF_BIN * _noise(x, [generator(self.seed, "dequantise", i) for i in indices])
        generators = [generator(self.seed, "probe", i) for i in indices]
        probes = [_noise(x, generators).sign() for _ in range(self.probes or 0)]
        prior, change = self.integrated(denoise, schedule, x, probes, self.steps)
        coarse_prior, coarse_change = self.integrated(denoise, schedule, x, probes, self.steps // 2)
        parts = {"prior": prior, "volume": change.mean(1)}
        if quantised:
            parts["bins"] = torch.full_like(prior, D * -math.log(2 * HALF_BIN))
        biases = {"solver": (coarse_prior - prior + (coarse_change - change).mean(1)).abs()}
        variances = {"probes": change.var(1) / len(probes)} if len(probes) > 1 else {}
        return Nats(parts, biases, variances)

    def integrated(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, probes: list[Tensor], steps: int
    ) -> tuple[Tensor, Tensor]:
        """Returns (-log p(z_1): (B,), its change by volume, one estimate per probe: (B, probes or 1))."""
        first = torch.tensor(-2 * math.log(CLEAN), dtype=torch.float64)
        first = torch.minimum(first, schedule.log_snr(1e-9)) if self.t_min is None else schedule.log_snr(self.t_min)
        last = schedule.log_snr(1.0).clamp(min=LOWEST)
        grid = torch.linspace(float(first), float(last), steps + 1, dtype=torch.float64)
        h = (last - first) / steps
        z = torch.sqrt(torch.sigmoid(first)).to(x) * x
        divergence = torch.zeros(len(x), max(1, len(probes)), dtype=torch.float64)
        for start in grid[:-1]:
            k1, d1 = velocity(denoise, schedule, z, start, probes)
            k2, d2 = velocity(denoise, schedule, z + float(h / 2) * k1, start + h / 2, probes)
            k3, d3 = velocity(denoise, schedule, z + float(h / 2) * k2, start + h / 2, probes)
            k4, d4 = velocity(denoise, schedule, z + float(h) * k3, start + h, probes)
            z = z + float(h / 6) * (k1 + 2 * k2 + 2 * k3 + k4)
            divergence += h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        alpha, sigma = schedule(1.0)
        log_std = math.log(schedule.prior_std) - torch.log(alpha**2 + sigma**2) / 2
        prior = density_nats(z, torch.zeros_like(z), log_std).flatten(1).cpu().double().sum(1)
        # from z at t_min to x_0 = z/cos(phi)
        return prior, -divergence - x[0].numel() * torch.nn.functional.logsigmoid(first) / 2


def velocity(
    denoise: DenoiseFn, schedule: Schedule, z: Tensor, log_snr: Tensor, probes: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Returns dz/dlambda: (B, ...), and its divergence: (B, probes), an estimate each, or exact: (B, 1)."""
    t = schedule.time(log_snr)
    alpha, sigma = schedule(t)
    cos, sin = torch.sqrt(torch.sigmoid(log_snr)), torch.sqrt(torch.sigmoid(-log_snr))
    with torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        prediction = denoise(like(torch.hypot(alpha, sigma), z) * z, t.expand(len(z)))
        v = like(cos, z) * prediction.eps.to(z.dtype) - like(sin, z) * prediction.x0.to(z.dtype)
        rate = like(-sin * cos / 2, z) * v
        if probes:
            traces = [(r * torch.autograd.grad(rate, z, r, retain_graph=True)[0]).flatten(1).sum(1) for r in probes]
        else:
            rows = rate.flatten(1).unbind(1)
            diagonal = [
                torch.autograd.grad(row.sum(), z, retain_graph=True)[0].flatten(1)[:, i] for i, row in enumerate(rows)
            ]
            traces = [torch.stack(diagonal).sum(0)]
    return rate.detach(), torch.stack(traces, 1).detach().cpu().double()


def _noise(x: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Draws uniform noise on [-1, 1], of the shape of x: (B, ...); image i uses generator i."""
    rows = [torch.rand(x.shape[1:], generator=g, dtype=torch.float64) for g in generators]
    return 2 * torch.stack(rows).to(x) - 1
