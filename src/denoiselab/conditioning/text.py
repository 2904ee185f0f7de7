"""Text conditioning: the encoder's states of a caption's tokens, used by cross-attention (Rombach 2021, §3.3).

tokens = W norm(states) + b; the vector is the same map of their masked mean. norm brings each state to mean 0 and
variance 1, whatever the encoder's scale.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.conditioning.captions import Captions, read
from denoiselab.conditioning.cond import Cond, Routes
from denoiselab.conditioning.conditioner import Judges, NullCondition, Plain, unlabelled
from denoiselab.conditioning.encoders import TextEncoder
from denoiselab.data.source import Batch
from denoiselab.limits import AtLeastTwo, Count, Share, checked

_ROUTES = {"tokens": ("tokens",), "vector": ("vector",), "both": ("tokens", "vector")}


class Text(Plain, Judges):
    """Text condition of width `dim`, from batch["text"] (`captions.written`) or a caption of the label and the image.

    encoder(texts, length) is built for the table of captions. route: "tokens", "vector" or "both". null: "learned" is a
    learned token or vector; "zero", or drop=0, is 0. tell: probability that a caption mentions an attribute.
    Raises ConfigError for an unknown option and for data without classes.
    """

    asks_class = True

    @checked
    def __init__(
        self,
        class_names: Sequence[str],
        encoder: Callable[..., TextEncoder],
        route: Literal["tokens", "vector", "both"] = "tokens",
        dim: Count = 128,
        length: AtLeastTwo = 24,
        tell: Share = 0.5,
        drop: Share = 0.1,
        null: NullCondition = "learned",
    ) -> None:
        super().__init__()
        self.captions, self.drop = Captions(class_names, tell), drop
        self.draws = self.captions.draws
        self.encoder = encoder(texts=self.captions.texts, length=length)
        self.routes = Routes(**dict.fromkeys(_ROUTES[route], dim))
        self.project = nn.ModuleDict({name: nn.Linear(self.encoder.width, dim) for name in _ROUTES[route]})
        learned = _ROUTES[route] if null == "learned" and drop > 0 else ()
        self.nothing = nn.ParameterDict({name: nn.Parameter(torch.randn(dim)) for name in learned})

    def texts(self, batch: Batch) -> list[str]:
        """The text of each sample."""
        if "text" in batch:
            return read(batch["text"])
        return [self.captions.texts[i] for i in self.captions.index(batch).tolist()]

    def forward(self, batch: Batch) -> Cond:
        """Encode the texts; batch["text"] has no class label. Raises ConfigError if the encoder cannot read a text."""
        states, mask = self.encoder.encode(self.texts(batch))
        states = nnf.layer_norm(states, states.shape[-1:])
        made: dict[str, Any] = {}
        if self.routes.tokens:
            made |= {"tokens": self.project["tokens"](states), "mask": mask}
        if self.routes.vector:
            there = mask[..., None].to(states.dtype)
            made["vector"] = self.project["vector"]((states * there).sum(1) / there.sum(1))
        label = batch["label"]
        return Cond(**made, label=unlabelled(label) if "text" in batch else label)

    def null(self, cond: Cond) -> Cond:
        """One null token, the others masked."""
        made: dict[str, Any] = {}
        if cond.tokens is not None:
            first = torch.arange(cond.tokens.shape[1], device=cond.tokens.device) == 0
            made["tokens"] = self._nothing("tokens", cond.tokens)
            made["mask"] = first.expand(cond.tokens.shape[:2])
        if cond.vector is not None:
            made["vector"] = self._nothing("vector", cond.vector)
        return Cond(**made, label=unlabelled(cond.label))

    def _nothing(self, route: str, told: Tensor) -> Tensor:
        return self.nothing[route].expand_as(told) if route in self.nothing else torch.zeros_like(told)

    def judge(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        """attribute_accuracy: 1 or 0 for each attribute in a caption, whether the image has it."""
        if "text" in batch:
            return {}
        told = self.captions.told(batch)
        return {"attribute_accuracy": (told == self.captions.levels(images))[told > 0].float()}
