"""What an image is to show, told in words: the states of a caption's tokens, to attend to (Rombach 2021, §3.3).

tokens = W norm(states) + b for each token, and as a vector the same of their masked mean; norm brings each state to
mean 0 and variance 1, so that encoders of any scale are told alike.
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
    """batch["text"], see `captions.written`, or else a caption of the label and the image -> `dim` numbers a token.

    encoder(texts, length) is made for the table of captions. route: "tokens", "vector" or "both". null "learned": a
    token, or vector, of its own; "zero", and where nothing is ever dropped: 0. tell: how often a caption tells an
    attribute. Raises ConfigError for another word and for data without classes.
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
        """What is said of each sample."""
        if "text" in batch:
            return read(batch["text"])
        return [self.captions.texts[i] for i in self.captions.index(batch).tolist()]

    def forward(self, batch: Batch) -> Cond:
        """A text that is given is of no class. Raises ConfigError for one that the encoder cannot read."""
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
        """One token that says nothing, the others are not there."""
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
        """attribute_accuracy: of the attributes that captions tell, 1 for each that the image has, else 0."""
        if "text" in batch:
            return {}
        told = self.captions.told(batch)
        return {"attribute_accuracy": (told == self.captions.levels(images))[told > 0].float()}
