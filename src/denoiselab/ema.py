"""Moving averages of the trained weights, in float32, several at once: mean <- beta_k mean + (1 - beta_k) theta_k.

An average weighs the steps 1 ... k by its profile. An exponential profile remembers the last 1/(1 - decay) steps. A
power-function profile (EDM2, Karras 2024, §3.1) remembers a share of all steps: theta_tau counts as tau^gamma, so that
the profile's standard deviation is `sigma_rel` of the training so far. Averages of any other sigma_rel can be made of
stored ones afterwards (§3.2): see `reconstruct`.
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
    """How an average weighs the steps."""

    @abstractmethod
    def beta(self, k: int) -> float:
        """What update k = 1, 2, ... keeps of the average before it."""

    @abstractmethod
    def __str__(self) -> str:
        """Its name, as the configuration writes it."""


class Exponential(Profile):
    """beta_k = min(decay, k/(9 + k)), so that the initial weights are soon forgotten; decay 0 is no averaging."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def beta(self, k: int) -> float:
        return min(self.decay, k / (9 + k))

    def __str__(self) -> str:
        return f"decay={self.decay:g}"


class Power(Profile):
    """beta_k = (1 - 1/k)^(gamma + 1) (EDM2, §3.1): step tau of k weighs (tau/k)^(gamma+1) - ((tau-1)/k)^(gamma+1)."""

    def __init__(self, sigma_rel: float) -> None:
        self.sigma_rel, self.gamma = sigma_rel, exponent(sigma_rel)

    def beta(self, k: int) -> float:
        return (1 - 1 / k) ** (self.gamma + 1)

    def __str__(self) -> str:
        return f"sigma_rel={self.sigma_rel:g}"


@checked
def exponent(sigma_rel: ProfileWidth) -> float:
    """gamma of the power function whose standard deviation is sigma_rel (EDM2, §3.1), of at most 0.28.

    sigma_rel^2 = (gamma + 1)/((gamma + 2)^2 (gamma + 3)); at gamma = 0, the even mean of all steps, it is 1/sqrt(12).
    """
    r = sigma_rel**-2
    return float(np.roots([1, 7, 16 - r, 12 - r]).real.max())


class Snapshot(NamedTuple):
    """A stored power-function average: of steps 1 ... step."""

    step: int
    sigma_rel: float
    weights: Mapping[str, Tensor]


class EMA:
    """The averages of the profiles decay=... and sigma_rel=..., a number or several; the first is the model's.

    Trained parameters only: no buffers, nothing frozen. Where snapshot_every is given, the power-function averages are
    kept on disk every so many steps, for reconstruction. Raises ConfigError for no average at all.
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
        """The average that the model is judged and sampled by."""
        return self.shadows[0]

    def bind(self, model: nn.Module, gathered: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Start from the model's present weights; inside of `gathered`, shards are whole."""
        self.gathered = gathered
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names, self.live = [name for name, _ in trained], [p for _, p in trained]
        self.shadows = [[p.detach().float().clone() for p in self.live] for _ in self.profiles]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the live weights in; once after each optimizer step."""
        if self.shadow[0].device != self.live[0].device:  # bound before the trainer moved the model
            self.shadows = [[s.to(p.device) for s, p in zip(shadow, self.live, strict=True)] for shadow in self.shadows]
        self.updates += 1
        live = [p.detach().float() for p in self.live]
        for profile, shadow in zip(self.profiles, self.shadows, strict=True):
            torch._foreach_lerp_(shadow, live, 1 - profile.beta(self.updates))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own again, whatever happened.

        With sharded weights all ranks enter it together, and inside each has all of them to itself.
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
        """By profile, the weights by name; the model's own average first. Of shards all ranks make them together."""
        return {
            str(profile): dict(zip(self.names, map(_whole, shadow), strict=True))
            for profile, shadow in zip(self.profiles, self.shadows, strict=True)
        }

    def snapshots(self) -> list[Snapshot]:
        """The power-function averages as they are now, of as many steps as there were updates."""
        pairs = zip(self.profiles, self.averages().values(), strict=True)
        return [Snapshot(self.updates, p.sigma_rel, weights) for p, weights in pairs if isinstance(p, Power)]

    def state_dict(self) -> dict[str, Any]:
        """`weights` is the model's average, `others` are those of the other profiles."""
        (main, weights), *others = self.averages().items()
        return {"updates": self.updates, "profile": main, "weights": weights, "others": dict(others)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        stored = [state["weights"], *state["others"].values()]
        pairs = list(zip(self.names, self.live, strict=True))
        self.shadows = [[_like(live, weights[name]).clone() for name, live in pairs] for weights in stored]


def _whole(tensor: Tensor) -> Tensor:
    """Of a shard the whole tensor, on the CPU of rank 0, and an empty one elsewhere; any other as it is."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    whole = tensor.full_tensor()
    return whole.cpu() if distributed.rank() == 0 else whole.new_empty(0, device="cpu")


def _like(live: Tensor, whole: Tensor) -> Tensor:
    """Of a whole tensor the shard that this rank has of the live one; the whole where that is."""
    if not hasattr(live, "full_tensor"):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor  # takes a second, and few have shards

    assert isinstance(live, DTensor)
    return distribute_tensor(whole, live.device_mesh, live.placements, src_data_rank=None)


def _listed(values: float | Sequence[float] | None) -> Sequence[float]:
    if values is None:
        return []
    return [values] if isinstance(values, int | float) else list(values)


def reconstruct(snapshots: Sequence[Snapshot], step: int, sigma_rel: float) -> Weights:
    """The average of steps 1 ... step with a profile of width sigma_rel, as nearly as the snapshots make it.

    The combination of stored profiles that is nearest to the wanted one in the mean square (EDM2, §3.2).
    """
    weights = combination([(s.step, s.sigma_rel) for s in snapshots], step, sigma_rel)
    made: Weights = {}
    for name, first in snapshots[0].weights.items():
        total = torch.zeros_like(first, dtype=torch.float64)
        for weight, snapshot in zip(weights, snapshots, strict=True):
            total += weight * snapshot.weights[name].double()
        made[name] = total.float()
    return made


def combination(stored: Sequence[tuple[int, float]], step: int, sigma_rel: float) -> list[float]:
    """What each stored (step, sigma_rel) counts in the wanted average."""
    steps, gammas = np.array([s for s, _ in stored], float), np.array([exponent(width) for _, width in stored])
    products = _inner(steps[:, None], gammas[:, None], steps[None], gammas[None])
    wanted = _inner(steps, gammas, np.float64(step), np.float64(exponent(sigma_rel)))
    return [float(x) for x in np.linalg.lstsq(products, wanted, rcond=None)[0]]


def _inner(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> Any:
    """The integral of the product of two profiles (gamma + 1)/t (tau/t)^gamma, each on [0, t]."""
    sooner = t_a < t_b
    short, long = np.where(sooner, t_a, t_b), np.where(sooner, t_b, t_a)
    gamma = np.where(sooner, gamma_b, gamma_a)  # that of the longer one, which the shorter one cuts off
    return (gamma_a + 1) * (gamma_b + 1) / ((gamma_a + gamma_b + 1) * long) * (short / long) ** gamma
