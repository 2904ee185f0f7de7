r"""The variational bound of a denoiser as a chain of T steps (DDPM, arXiv:2006.11239, eq. 5), from K evaluations.

$$-\log p(x_0) \le \mathrm{prior} + \sum_{i=2}^T E L_{t_i} + E\,\mathrm{decoder}, \quad 0 = t_0 < \dots < t_T = 1$$

One evaluation, at $t_1$, is for the decoder. The others are for K - 1 of the T - 1 steps, one from each of K - 1 strata
of equal probability under $p_i$. L is weighted by $1/((K - 1)\,p_i)$, so the sum is unbiased; with K = T it is exact.
Nine tenths of $p_i$ are proportional to $\log(1 + \mathrm{SNR}_{i-1}) - \log(1 + \mathrm{SNR}_i)$, as $L_{t_i}$ is for
$N(0, 1)$ data in small steps; one tenth is uniform, so that no weight is large where that falls to 0.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.errors import ConfigError, InvalidValue
from denoiselab.likelihood.likelihood import ByLogSNR, Likelihood, Nats
from denoiselab.likelihood.terms import FRACTIONS, decoder_log_std, decoder_nats, density_nats, prior_nats, step_nats
from denoiselab.limits import AtLeastTwo, Count, Natural, checked
from denoiselab.randomness import SampleNoise, generator
from denoiselab.samplers.sampler import NoiseFn
from denoiselab.schedules import Schedule, like
from denoiselab.spacings import Spacing, Trailing

GOLDEN = (5**0.5 - 1) / 2


class VariationalBound(Likelihood):
    """The bound with reverse variance beta-tilde ("small"), beta ("large"), or the network's own where it learns one.

    spacing: the chain's grid; None: t_i = i/T. bins: the number of log-SNR bins in which L_t is reported.
    """

    @checked
    def __init__(
        self,
        T: AtLeastTwo = 1000,
        K: AtLeastTwo = 10,
        variance: Literal["small", "large"] = "large",
        spacing: Spacing | None = None,
        bins: Count = 20,
        seed: Natural = 0,
    ) -> None:
        if K > T:
            raise InvalidValue("K", K, f"at most T={T}")
        self.T, self.K, self.bins, self.seed = T, K, bins, seed
        self.fraction = FRACTIONS[variance]
        self.spacing = Trailing() if spacing is None else spacing
        self.words = {"T": T, "K": K, "variance": variance, "spacing": type(self.spacing).__name__, "seed": seed}

    def __call__(
        self, denoise: DenoiseFn, schedule: Schedule, x0: Tensor, indices: Sequence[int], quantised: bool
    ) -> Nats:
        # The golden ratio spreads the places within the strata evenly over any number of images.
        start = torch.rand((), generator=generator(self.seed, "bound"), dtype=torch.float64)
        places = (start + GOLDEN * torch.tensor(list(indices), dtype=torch.float64)) % 1
        return self.terms(denoise, schedule, x0, places, SampleNoise(self.seed, indices, "bound"), quantised)

    def terms(
        self, denoise: DenoiseFn, schedule: Schedule, x0: Tensor, places: Tensor, noise: NoiseFn, quantised: bool
    ) -> Nats:
        """places: (B,) in [0, 1), each image's place in every stratum. Calls `noise` once per evaluation."""
        times = self.times(schedule)
        edges = self.edges(schedule, times)

        def predicted(t: Tensor) -> tuple[Tensor, Prediction, float | Tensor]:
            alpha, sigma = schedule(t)
            x_t = like(alpha, x0) * x0 + like(sigma, x0) * noise(x0)
            prediction = denoise(x_t, t)
            return x_t, prediction, self.fraction if prediction.variance is None else prediction.variance

        t_1, t_2 = (times[i].expand(len(x0)) for i in (1, 2))
        _, prediction, fraction = predicted(t_1)
        log_std = decoder_log_std(schedule, t_1, t_2, fraction)
        decoder = (decoder_nats if quantised else density_nats)(x0, prediction.x0, log_std)

        binned = torch.zeros(len(x0), self.bins, dtype=torch.float64)
        evaluations = torch.zeros_like(binned)
        for steps, weights in zip(*self.drawn(schedule, times, places), strict=True):
            t, s = times[steps], times[steps - 1]
            x_t, prediction, fraction = predicted(t)
            nats = weights * _summed(step_nats(schedule, x0, x_t, prediction, t, s, fraction))
            place = (torch.bucketize(schedule.log_snr(t), edges, right=True) - 1).clamp(0, self.bins - 1)[:, None]
            binned.scatter_add_(1, place, nats[:, None])
            evaluations.scatter_add_(1, place, torch.ones_like(nats)[:, None])
        parts = {
            "prior": _summed(prior_nats(schedule, x0)),
            "diffusion": binned.sum(1),
            "decoder": _summed(decoder),
        }
        words = {} if prediction.variance is None else {"variance": "learned"}
        return Nats(parts, by_log_snr=ByLogSNR("diffusion", binned, evaluations, edges), words=words)

    def times(self, schedule: Schedule) -> Tensor:
        """Returns t_0 ... t_T: (T + 1,)."""
        times = self.spacing(self.T, schedule).flip(0).cpu()
        if times[-1] != 1:
            raise ConfigError(
                f"a chain of the bound begins at t = 1, where its prior is, and that of {type(self.spacing).__name__} "
                f"begins at {times[-1]:g}; take Trailing or LogSNR"
            )
        return times

    def edges(self, schedule: Schedule, times: Tensor) -> Tensor:
        """Returns the bin edges, ascending and even in log-SNR from t_T, or t_{T-1} if it is infinite there, to t_1."""
        ends = schedule.log_snr(times[[-1, -2, 1]])
        low = ends[0] if ends[0].isfinite() else ends[1]
        return torch.linspace(float(low), float(ends[2]), self.bins + 1, dtype=torch.float64)

    def drawn(self, schedule: Schedule, times: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (steps in 2 ... T, their weights), each (K - 1, B)."""
        if self.K == self.T:
            steps = torch.arange(2, self.T + 1)[:, None].expand(-1, len(places))
            return steps, torch.ones(steps.shape, dtype=torch.float64)
        information = softplus(schedule.log_snr(times[1:]))
        share = -information.diff() / (information[0] - information[-1])
        p = 0.9 * share + 0.1 / len(share)
        strata = (torch.arange(self.K - 1)[:, None] + places) / (self.K - 1)
        chosen = torch.searchsorted(p.cumsum(0), strata).clamp(max=len(p) - 1)
        return chosen + 2, 1 / ((self.K - 1) * p[chosen])


def _summed(nats: Tensor) -> Tensor:
    return nats.flatten(1).cpu().double().sum(1)
