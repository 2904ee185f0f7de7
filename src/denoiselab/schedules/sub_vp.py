"""Score-SDE's sub-VP process, with less variance than VP."""

from typing import Unpack

import torch
from torch import Tensor

from denoiselab.limits import Positive, checked
from denoiselab.schedules.schedule import Ends, Level, Schedule
from denoiselab.schedules.variance_preserving import Linear


class SubVP(Schedule):
    r"""$\alpha = e^B$, the $\alpha$ of `Linear`, and $\sigma = 1 - e^{2B}$ (Score-SDE, arXiv:2011.13456, eq. 29)."""

    @checked
    def __init__(self, beta_min: Positive = 0.1, beta_max: Positive = 20.0, **ends: Unpack[Ends]) -> None:
        self._vp = Linear(beta_min, beta_max)
        super().__init__(**ends)

    def level(self, t: Tensor) -> Level:
        log_alpha_bar = self._vp.log_alpha_bar(t)
        return Level(torch.exp(log_alpha_bar / 2), -torch.expm1(log_alpha_bar))

    def log_snr_of(self, t: Tensor) -> Tensor:
        log_alpha_bar = self._vp.log_alpha_bar(t)
        return log_alpha_bar - 2 * torch.log(-torch.expm1(log_alpha_bar))

    def time_of(self, log_snr: Tensor) -> Tensor:
        # With n = sigma/alpha, (1 - alpha^2)/alpha = n, or 2 sinh(-log alpha) = n.
        return self._vp.time_of_log_alpha_bar(-2 * torch.asinh(torch.exp(-log_snr / 2) / 2))

    def level_of(self, log_snr: Tensor) -> Level:
        n = torch.exp(-log_snr / 2)
        alpha = torch.exp(-torch.asinh(n / 2))
        return Level(alpha, alpha * n)
