"""Exponential moving average of the trained weights, in float32: theta_ema <- d theta_ema + (1 - d) theta."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """The average after k updates uses d = min(decay, (1 + k)/(10 + k)), so that it forgets the initial weights soon.

    Trained parameters only: no buffers, nothing frozen. decay 0 is no averaging.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self.updates = 0
        self.names: list[str] = []
        self.live: list[nn.Parameter] = []
        self.shadow: list[Tensor] = []

    def bind(self, model: nn.Module) -> None:
        """Start from the model's present weights."""
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names, self.live = [name for name, _ in trained], [p for _, p in trained]
        self.shadow = [p.detach().float().clone() for p in self.live]

    @torch.no_grad()
    def update(self) -> None:
        if self.shadow[0].device != self.live[0].device:  # bound before the trainer moved the model
            self.shadow = [s.to(p.device) for s, p in zip(self.shadow, self.live, strict=True)]
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, [p.detach().float() for p in self.live], 1 - decay)
        self.updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own again, whatever happened."""
        kept = [p.detach().clone() for p in self.live]
        self._write(self.shadow)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.live, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": dict(zip(self.names, self.shadow, strict=True))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.shadow = [state["weights"][name].clone() for name in self.names]
