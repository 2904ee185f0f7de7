"""Schedules with alpha = 1, each given by log sigma(t)."""

import math
from abc import abstractmethod
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from denoiselab.errors import InvalidValue
from denoiselab.limits import AtLeastTwo, Finite, Positive, checked
from denoiselab.schedules.schedule import Ends, Level, Schedule, noise_label


class VarianceExploding(Schedule):
    r"""$\alpha = 1$ and growing $\sigma(t)$: $x_t = x_0 + \sigma\epsilon$; `sigma_max` is $\sigma(1)$.

    Since x_t is far from unit variance, the network takes $x_t/\sqrt{1 + \sigma^2}$, with $\log(\sigma)/4$ as its time
    (EDM, arXiv:2206.00364, table 1, with data of unit variance).
    """

    @checked
    def __init__(self, sigma_max: Positive, log_snr_min: Finite | None = None, shift: Positive = 1.0) -> None:
        self.sigma_max = sigma_max
        top = sigma_max * shift if log_snr_min is None else min(sigma_max * shift, math.exp(-log_snr_min / 2))
        super().__init__(prior_std=top, log_snr_min=log_snr_min, shift=shift)

    @abstractmethod
    def log_sigma(self, t: Tensor) -> Tensor:
        """Returns log sigma(t), strictly increasing."""

    @abstractmethod
    def time_of_log_sigma(self, log_sigma: Tensor) -> Tensor:
        """Inverts `log_sigma`."""

    def level(self, t: Tensor) -> Level:
        return self.level_of(self.log_snr_of(t))

    def log_snr_of(self, t: Tensor) -> Tensor:
        return -2 * self.log_sigma(t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return self.time_of_log_sigma(-log_snr / 2)

    def level_of(self, log_snr: Tensor) -> Level:
        return Level(torch.ones_like(log_snr), torch.exp(-log_snr / 2))

    def network_input(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        log_snr = self.log_snr(t)
        return torch.exp(logsigmoid(log_snr) / 2), noise_label(log_snr)


class VE(VarianceExploding):
    r"""$\sigma = \sigma_\mathrm{min}^{1-t} \sigma_\mathrm{max}^t$ (Score-SDE, arXiv:2011.13456, eq. 31).

    NCSN has 10 such levels from 0.01 to 1.
    """

    @checked
    def __init__(self, sigma_min: Positive = 0.01, sigma_max: Positive = 50.0, **ends: Unpack[Ends]) -> None:
        """Raises ConfigError unless sigma_min < sigma_max."""
        if sigma_min >= sigma_max:
            raise InvalidValue("sigma_min", sigma_min, f"below sigma_max={sigma_max}")
        self.sigma_min = sigma_min
        self._start, self._rise = math.log(sigma_min), math.log(sigma_max / sigma_min)
        super().__init__(sigma_max, **ends)

    def log_sigma(self, t: Tensor) -> Tensor:
        return self._start + t * self._rise

    def time_of_log_sigma(self, log_sigma: Tensor) -> Tensor:
        return (log_sigma - self._start) / self._rise


class VESqrt(VarianceExploding):
    r"""The unit random walk $x_i = x_{i-1} + \epsilon$ in T steps: $\sigma^2 = T t$, which is $i$ at $t = i/T$."""

    @checked
    def __init__(self, T: AtLeastTwo = 1000, **ends: Unpack[Ends]) -> None:
        self.T = T
        super().__init__(math.sqrt(T), **ends)

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self.T * t) / 2

    def time_of_log_sigma(self, log_sigma: Tensor) -> Tensor:
        return torch.exp(2 * log_sigma) / self.T


class EDM(VarianceExploding):
    r"""$\sigma = \sigma_\mathrm{max} t$ (EDM, arXiv:2206.00364, table 1: its time is sigma). Karras grids are exact."""

    @checked
    def __init__(self, sigma_max: Positive = 80.0, **ends: Unpack[Ends]) -> None:
        super().__init__(sigma_max, **ends)

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self.sigma_max * t)

    def time_of_log_sigma(self, log_sigma: Tensor) -> Tensor:
        return torch.exp(log_sigma) / self.sigma_max
