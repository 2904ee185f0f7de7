"""A small transformer over words, trained with the model; needs no extra package."""

import difflib
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denoiselab.conditioning.encoders.encoder import TextEncoder, too_long
from denoiselab.errors import ConfigError, InvalidValue
from denoiselab.limits import AtLeastTwo, Count, checked


class Words(TextEncoder):
    """Transformer encoder with the words of `texts` as its vocabulary, learned positions and `depth` layers.

    Case is ignored; words are split at all but letters, digits, apostrophes and hyphens.
    """

    @checked
    def __init__(
        self, texts: Sequence[str], length: AtLeastTwo = 24, width: Count = 64, depth: Count = 2, heads: Count = 4
    ) -> None:
        super().__init__()
        if width % heads:
            raise InvalidValue("heads", heads, f"a divisor of width={width}")
        self.width, self.length = width, length
        known = sorted({word for text in texts for word in parted(text)})
        self.ids = {word: i for i, word in enumerate(known, start=1)}  # 0: padding
        self.embedding = nn.Embedding(len(known) + 1, width, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        for text in texts:
            self._row(text)

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([self._row(text) for text in texts], device=self.position.device)
        states, mask = self.embedding(ids) + self.position, ids > 0
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=~mask)
        return states, mask

    def _row(self, text: str) -> list[int]:
        words = parted(text)
        for word in words:
            if word not in self.ids:
                raise ConfigError(self._unknown(word, text))
        if not words:
            raise ConfigError(f'"{text}" has no word in it; say what is to be seen, such as "{next(iter(self.ids))}"')
        if len(words) > self.length:
            raise ConfigError(too_long(text, len(words), self.length))
        return [self.ids[word] for word in words] + [0] * (self.length - len(words))

    def _unknown(self, word: str, text: str) -> str:
        near = difflib.get_close_matches(word, self.ids, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        known = list(self.ids)
        some = ", ".join(known[:40]) + (", ..." if len(known) > 40 else "")
        return f'"{text}": {word} is not among the {len(known)} words of the captions{hint or f"; these are {some}"}'


def parted(text: str) -> list[str]:
    """Split into words: "A T-shirt, dark" -> ["a", "t-shirt", "dark"]."""
    return re.findall(r"\w+(?:['-]\w+)*", text.lower())
