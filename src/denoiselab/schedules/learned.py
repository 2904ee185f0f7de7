r"""A noise schedule that is trained with the network (VDM, Kingma 2021, arXiv:2107.00630, appendix H).

$\lambda(t) = \mathrm{start} + (\mathrm{end} - \mathrm{start})\,g(t)$, where $g$ is a monotone network that runs from 0
to 1. In continuous time the bound depends on the two ends, not on $g$; so the bound trains the ends, and the variance
of its estimate trains $g$.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from denoiselab.errors import InvalidValue
from denoiselab.limits import Count, Finite, checked
from denoiselab.schedules.schedule import as_time, noise_label
from denoiselab.schedules.variance_preserving import VariancePreserving


class Learned(VariancePreserving, nn.Module):
    """A variance-preserving schedule with trained log-SNR, initially linear from `start` (t -> 0) to `end` (t = 1).

    Only loss=vlb trains it: under any other weight, the loss is smallest at the easiest noise levels.
    """

    @checked
    def __init__(self, start: Finite = 13.3, end: Finite = -5.0, units: Count = 64) -> None:
        nn.Module.__init__(self)
        if start <= end:
            raise InvalidValue("start", start, f"above end={end}", "log-SNR has to fall")
        self.start, self.end = nn.Parameter(torch.tensor(float(start))), nn.Parameter(torch.tensor(float(end)))
        # g before normalisation: t + sum_j w_j S(a_j (t - p_j)), all w_j and a_j positive.
        self.height = nn.Parameter(torch.full((units,), -6.0))
        self.steepness = nn.Parameter(torch.full((units,), 5.0))
        self.place = nn.Parameter(torch.linspace(0, 1, units))
        self._losses: list[Tensor] | None = None
        super().__init__()

    def _raw(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (g, dg/dt) before normalisation, each of the shape of t."""
        height, steepness = softplus(self.height.double()), 2 * softplus(self.steepness.double())
        waves = torch.sigmoid(steepness * (t[..., None] - self.place.double()))
        return t + (height * waves).sum(-1), 1 + (height * steepness * waves * (1 - waves)).sum(-1)

    def _inner(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (g, dg/dt), normalised to g(0) = 0 and g(1) = 1."""
        t = t.to(self.start.device)
        (g, slope), (first, last) = self._raw(t), (self._raw(t.new_full((), end))[0] for end in (0.0, 1.0))
        parts = (g - first) / (last - first), slope / (last - first)
        if self._losses is not None and torch.is_grad_enabled():
            parts = _rescaled(parts[0], self._losses), _rescaled(parts[1], self._losses)
        return parts

    @contextmanager
    def minimising_variance(self) -> Iterator[Callable[[Tensor], None]]:
        """Inside, values computed from times (B,) pass to g the gradient of the squared losses.

        Call the yielded function with the losses (B,) before backpropagation.
        """
        self._losses = losses = []
        try:
            yield lambda values: losses.append(values.detach())
        finally:
            self._losses = None

    def log_snr_of(self, t: Tensor) -> Tensor:
        g = self._inner(t)[0]
        return (self.start + (self.end - self.start) * g).to(t.device)

    def log_snr_slope(self, t: Tensor | float) -> Tensor:
        t = as_time(t)
        return ((self.end - self.start) * self._inner(t)[1]).to(t.device)

    def log_alpha_bar(self, t: Tensor) -> Tensor:
        return logsigmoid(self.log_snr_of(t))

    @torch.no_grad()
    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        """Inverts by bisection: 60 halvings of [0, 1] exhaust float64."""
        low, high = torch.zeros_like(log_alpha_bar), torch.ones_like(log_alpha_bar)
        for _ in range(60):
            middle = (low + high) / 2
            early = self.log_alpha_bar(middle) > log_alpha_bar
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return low

    def network_input(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        return torch.ones_like(t), noise_label(self.log_snr(t))


def _rescaled(values: Tensor, losses: list[Tensor]) -> Tensor:
    """Returns values: (B,), whose gradient is multiplied by 2 loss, and so is that of loss^2 instead of the loss."""
    if values.ndim == 1:
        values.register_hook(lambda gradient: gradient * 2 * losses[0].to(gradient))
    return values
