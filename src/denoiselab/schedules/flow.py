"""The straight path from data to noise."""

from typing import Unpack

import torch
from torch import Tensor

from denoiselab.schedules.schedule import Ends, Level, Schedule


class Flow(Schedule):
    r"""Rectified flow, $\alpha = 1 - t$, $\sigma = t$ (Liu 2022, arXiv:2209.03003; Lipman 2022, arXiv:2210.02747)."""

    def __init__(self, **ends: Unpack[Ends]) -> None:
        super().__init__(**ends)

    def level(self, t: Tensor) -> Level:
        return Level(1 - t, t)

    def log_snr_of(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def time_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)

    def level_of(self, log_snr: Tensor) -> Level:
        return Level(torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2))
