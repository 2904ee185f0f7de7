r"""Averages of the trained weights, in float32, several at once: $m \leftarrow \beta_k m + (1 - \beta_k)\,\theta_k$.

An average weights the steps 1 ... k by its profile. An exponential profile remembers the last 1/(1 - decay) steps. A
power-function profile (EDM2, Karras 2024, arXiv:2312.02696, §3.1) remembers a share of all steps: $\theta_\tau$ has
weight $\propto \tau^\gamma$, so that the profile's standard deviation is `sigma_rel` of the training so far. Stored
averages can be combined to other values of sigma_rel afterwards (§3.2): see `reconstruct`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from denoiselab import distributed
from denoiselab.errors import ConfigError
from denoiselab.limits import Count, ProfileWidth, ShareBelowOne, checked

Weights = dict[str, Tensor]


class Profile(ABC):
    """The weights of the training steps in an average."""

    @abstractmethod
    def beta(self, k: int) -> float:
        """Returns the share of the previous average that update k = 1, 2, ... keeps."""

    @abstractmethod
    def __str__(self) -> str:
        """Returns the profile as the configuration writes it."""


class Exponential(Profile):
    r"""$\beta_k = \min(\mathrm{decay}, k/(9 + k))$, to forget the initial weights quickly; decay 0 does not average."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def beta(self, k: int) -> float:
        return min(self.decay, k / (9 + k))

    def __str__(self) -> str:
        return f"decay={self.decay:g}"


class Power(Profile):
    r"""$\beta_k = (1 - 1/k)^{\gamma + 1}$: step j weighs $(j/k)^{\gamma+1} - ((j - 1)/k)^{\gamma+1}$ (EDM2, §3.1)."""

    def __init__(self, sigma_rel: float) -> None:
        self.sigma_rel, self.gamma = sigma_rel, exponent(sigma_rel)

    def beta(self, k: int) -> float:
        return (1 - 1 / k) ** (self.gamma + 1)

    def __str__(self) -> str:
        return f"sigma_rel={self.sigma_rel:g}"


@checked
def exponent(sigma_rel: ProfileWidth) -> float:
    r"""Returns gamma of the power function of standard deviation sigma_rel, at most 0.28 (EDM2, §3.1).

    $\sigma_\mathrm{rel}^2 = (\gamma + 1)/((\gamma + 2)^2 (\gamma + 3))$; it is $1/12$ at $\gamma = 0$, the plain mean.
    """
    r = sigma_rel**-2
    return float(np.roots([1, 7, 16 - r, 12 - r]).real.max())


class Snapshot(NamedTuple):
    """A stored power-function average of steps 1 ... step."""

    step: int
    sigma_rel: float
    weights: Mapping[str, Tensor]


class EMA:
    """Averages with the profiles decay=... and sigma_rel=..., each a number or several; the first is the model's.

    Covers trained parameters only: no buffers, nothing frozen. With snapshot_every, power-function averages are stored
    every so many steps, for reconstruction. Raises ConfigError without any profile.
    """

    @checked
    def __init__(
        self,
        decay: ShareBelowOne | Sequence[ShareBelowOne] | None = 0.999,
        sigma_rel: ProfileWidth | Sequence[ProfileWidth] | None = None,
        snapshot_every: Count | None = None,
    ) -> None:
        self.profiles: list[Profile] = [*map(Exponential, _listed(decay)), *map(Power, _listed(sigma_rel))]
        if not self.profiles:
            raise ConfigError("ema needs a profile; take ema.decay=0.999, or ema=none for the weights as they are")
        names = list(map(str, self.profiles))
        if len(set(names)) < len(names):
            raise ConfigError(f"ema: {', '.join(names)} are not all different; give each average once")
        self.snapshot_every = snapshot_every
        self.updates = 0
        self.names: list[str] = []
        self.live: list[nn.Parameter] = []
        self.shadows: list[list[Tensor]] = []
        self.gathered: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def shadow(self) -> list[Tensor]:
        """The average with which the model is evaluated and sampled."""
        return self.shadows[0]

    def bind(self, model: nn.Module, gathered: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Starts from the model's current weights; inside `gathered`, sharded weights are whole."""
        self.gathered = gathered
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names, self.live = [name for name, _ in trained], [p for _, p in trained]
        self.shadows = [[p.detach().float().clone() for p in self.live] for _ in self.profiles]

    @torch.no_grad()
    def update(self) -> None:
        """Adds the live weights; call once after each optimizer step."""
        if self.shadow[0].device != self.live[0].device:  # bind() came before the trainer moved the model
            self.shadows = [[s.to(p.device) for s, p in zip(shadow, self.live, strict=True)] for shadow in self.shadows]
        self.updates += 1
        live = [p.detach().float() for p in self.live]
        for profile, shadow in zip(self.profiles, self.shadows, strict=True):
            torch._foreach_lerp_(shadow, live, 1 - profile.beta(self.updates))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Gives the model the averaged weights inside the context, and its own back afterwards, even after an error.

        With sharded weights all ranks enter together, and each has all weights inside.
        """
        kept = [p.detach().clone() for p in self.live]
        self._write(self.shadow)
        try:
            with self.gathered():
                yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.live, values, strict=True):
            parameter.copy_(value)

    def averages(self) -> dict[str, Weights]:
        """Returns the weights by profile and name, the model's average first. With shards, all ranks must call it."""
        return {
            str(profile): dict(zip(self.names, map(_whole, shadow), strict=True))
            for profile, shadow in zip(self.profiles, self.shadows, strict=True)
        }

    def snapshots(self) -> list[Snapshot]:
        """Returns the current power-function averages, of as many steps as there were updates."""
        pairs = zip(self.profiles, self.averages().values(), strict=True)
        return [Snapshot(self.updates, p.sigma_rel, weights) for p, weights in pairs if isinstance(p, Power)]

    def state_dict(self) -> dict[str, Any]:
        """Returns the state: `weights` is the model's average, `others` are those of the other profiles."""
        (main, weights), *others = self.averages().items()
        return {"updates": self.updates, "profile": main, "weights": weights, "others": dict(others)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        stored = [state["weights"], *state["others"].values()]
        pairs = list(zip(self.names, self.live, strict=True))
        self.shadows = [[_like(live, weights[name]).clone() for name, live in pairs] for weights in stored]


def _whole(tensor: Tensor) -> Tensor:
    """Returns a shard's whole tensor on the CPU of rank 0, an empty one elsewhere; other tensors unchanged."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    whole = tensor.full_tensor()
    return whole.cpu() if distributed.rank() == 0 else whole.new_empty(0, device="cpu")


def _like(live: Tensor, whole: Tensor) -> Tensor:
    """Returns this rank's shard of `whole` if `live` is sharded, otherwise `whole`."""
    if not hasattr(live, "full_tensor"):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor  # slow to import, and seldom needed

    assert isinstance(live, DTensor)
    return distribute_tensor(whole, live.device_mesh, live.placements, src_data_rank=None)


def _listed(values: float | Sequence[float] | None) -> Sequence[float]:
    if values is None:
        return []
    return [values] if isinstance(values, int | float) else list(values)


def reconstruct(snapshots: Sequence[Snapshot], step: int, sigma_rel: float) -> Weights:
    """Returns the average of steps 1 ... step of width sigma_rel, the least-squares fit by snapshots (EDM2, §3.2)."""
    weights = combination([(s.step, s.sigma_rel) for s in snapshots], step, sigma_rel)
    made: Weights = {}
    for name, first in snapshots[0].weights.items():
        total = torch.zeros_like(first, dtype=torch.float64)
        for weight, snapshot in zip(weights, snapshots, strict=True):
            total += weight * snapshot.weights[name].double()
        made[name] = total.float()
    return made


def combination(stored: Sequence[tuple[int, float]], step: int, sigma_rel: float) -> list[float]:
    """Returns the coefficient of each stored (step, sigma_rel) in the wanted average."""
    steps, gammas = np.array([s for s, _ in stored], float), np.array([exponent(width) for _, width in stored])
    products = _inner(steps[:, None], gammas[:, None], steps[None], gammas[None])
    wanted = _inner(steps, gammas, np.float64(step), np.float64(exponent(sigma_rel)))
    return [float(x) for x in np.linalg.lstsq(products, wanted, rcond=None)[0]]


def _inner(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> Any:
    """Returns the integral of the product of two profiles (gamma + 1)/t (tau/t)^gamma, each on [0, t]."""
    sooner = t_a < t_b
    short, long = np.where(sooner, t_a, t_b), np.where(sooner, t_b, t_a)
    gamma = np.where(sooner, gamma_b, gamma_a)  # of the longer profile, which the shorter one cuts off
    return (gamma_a + 1) * (gamma_b + 1) / ((gamma_a + gamma_b + 1) * long) * (short / long) ** gamma
