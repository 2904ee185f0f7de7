"""The base class of text encoders."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class TextEncoder(nn.Module, ABC):
    """Base class of text encoders. width: size D of a token's state; length: the maximum number of tokens, L."""

    width: int
    length: int

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode texts, independently of each other: (states (B, L, D), mask of valid tokens, bool (B, L)).

        Raises ConfigError for a text that cannot be read or is too long.
        """


def too_long(text: str, tokens: int, length: int) -> str:
    return (
        f'"{text}" has {tokens} tokens, and there is room for {length}; say it in fewer words, or train with '
        f"conditioning.length={tokens}"
    )
