"""What a text encoder is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class TextEncoder(nn.Module, ABC):
    """width: of a token's state, D; length: how many tokens there is room for, L."""

    width: int
    length: int

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(states (B, L, D), mask, bool (B, L), of the tokens that are there).

        A text's are the same whatever the others are. Raises ConfigError for a text that cannot be read or is longer.
        """


def too_long(text: str, tokens: int, length: int) -> str:
    return (
        f'"{text}" has {tokens} tokens, and there is room for {length}; say it in fewer words, or train with '
        f"conditioning.length={tokens}"
    )
