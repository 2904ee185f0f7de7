"""Template captions of an image's class and attributes, in several wordings; some wordings are held out of training.

A caption is an entry of a finite table of strings,

    index = ((label S + told) W + wording),   S states of the attributes, W wordings,

so that a frozen encoder reads each one once. Attributes are measured from an image's pixels, or drawn at random when
there is no image (sampling). Which attributes a caption mentions is random too.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.data.source import Batch
from denoiselab.errors import ConfigError


class Attribute(NamedTuple):
    """A measure of uint8 images, (B, C, H, W) -> (B,): one word below `low`, another above `high`, none in between."""

    measure: Callable[[Tensor], Tensor]
    low: float
    high: float
    words: tuple[str, str]

    def level(self, images: Tensor) -> Tensor:
        """int64 (B,): 0 for no word, 1 for the first, 2 for the second."""
        value = self.measure(images)
        return (value < self.low).long() + 2 * (value > self.high).long()


class Style(NamedTuple):
    """Caption templates: {A} becomes "a" or "an", {adjective} and {tail} an attribute's word or nothing."""

    trained: tuple[str, ...]
    unseen: tuple[str, ...]  # made of the same words as the trained ones; only the order is new
    adjective: Attribute
    tail: Attribute | None = None

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        return (self.adjective,) if self.tail is None else (self.adjective, self.tail)


def intensity(images: Tensor) -> Tensor:
    """Mean of all pixels, in [0, 1]; for strokes on black, their thickness and strength."""
    return images.float().flatten(1).mean(1) / 255


def brightness(images: Tensor) -> Tensor:
    """Mean of the pixels that are not black, in [0, 1]."""
    pixels = images.float().flatten(1) / 255
    return pixels.sum(1) / (pixels > 0).sum(1).clamp(min=1)


def slant(images: Tensor) -> Tensor:
    """Shift of each row to the right of the row below, in pixels: -mu_11/mu_02 of the image's moments."""
    ink = images.float().mean(1)
    y = torch.arange(ink.shape[1], device=ink.device).float()[:, None]
    x = torch.arange(ink.shape[2], device=ink.device).float()
    mass = ink.sum((1, 2)).clamp(min=1e-9)
    dy, dx = (v - ((ink * v).sum((1, 2)) / mass)[:, None, None] for v in (y, x))
    return -(ink * dy * dx).sum((1, 2)) / (ink * dy**2).sum((1, 2)).clamp(min=1e-9)


# With these thresholds data=digits has 34% thin, 34% bold, 32% slanted left and 11% slanted right.
HANDWRITING = Style(
    trained=(
        "a photo of {A} {adjective} handwritten {noun} {tail}",
        "{A} {adjective} {noun} {tail}",
        "a picture of {A} {adjective} {noun} {tail}",
        "the {adjective} digit {noun} {tail}",
        "{A} {adjective} {noun} written by hand {tail}",
        "someone wrote {A} {adjective} {noun} {tail}",
        "this is {A} {adjective} {noun} {tail}",
        "a drawing of the {adjective} number {noun} {tail}",
    ),
    unseen=(
        "a photo of the {adjective} number {noun} {tail}",
        "this is a picture of {A} {adjective} handwritten {noun} {tail}",
        "the {adjective} {noun} someone wrote by hand {tail}",
        "a drawing of {A} {adjective} digit {noun} {tail}",
    ),
    adjective=Attribute(intensity, 0.29, 0.32, ("thin", "bold")),
    tail=Attribute(slant, -0.1, 0.1, ("slanted left", "slanted right")),
)
# With these thresholds a third of data=fashion_mnist is dark, a third light.
THINGS = Style(
    trained=(
        "a photo of {A} {adjective} {noun}",
        "{A} {adjective} {noun}",
        "a picture of {A} {adjective} {noun}",
        "this is {A} {adjective} {noun}",
        "an image of {A} {adjective} {noun}",
        "there is {A} {adjective} {noun} in this photo",
        "a small picture showing {A} {adjective} {noun}",
        "one {adjective} {noun}",
    ),
    unseen=(
        "this is a photo of {A} {adjective} {noun}",
        "there is one {adjective} {noun} in this picture",
        "an image showing {A} {adjective} {noun}",
        "a small photo of {A} {adjective} {noun}",
    ),
    adjective=Attribute(brightness, 0.5, 0.67, ("dark", "light")),
)

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NOUNS = {str(i): word for i, word in enumerate(_DIGITS)} | {
    "T-shirt/top": "t-shirt",
    "Trouser": "pair of trousers",
    "Pullover": "pullover",
    "Dress": "dress",
    "Coat": "coat",
    "Sandal": "sandal",
    "Shirt": "shirt",
    "Sneaker": "sneaker",
    "Bag": "bag",
    "Ankle boot": "ankle boot",
}


class Captions:
    """Table of captions, `texts`, for the given class names. Digits use handwriting templates; other names stay as is.

    tell: probability that a caption mentions each attribute. draws: uniform numbers used per caption.
    Raises ConfigError for data without classes.
    """

    def __init__(self, class_names: Sequence[str], tell: float = 0.5) -> None:
        if not class_names:
            raise ConfigError(
                "captions name the class of an image, and these data have no classes; a sub-folder for each class "
                "would give them; or take conditioning=none guidance=none metrics=none"
            )
        self.nouns = [_NOUNS.get(name, name) for name in class_names]
        self.style, self.tell = HANDWRITING if set(self.nouns) <= set(_DIGITS) else THINGS, tell
        self.attributes = self.style.attributes
        self.draws = 1 + len(self.attributes)
        wordings, states = self.style.trained + self.style.unseen, _states(self.attributes)
        self.texts = [_said(w, noun, state) for noun in self.nouns for state in states for w in wordings]

    @property
    def trained(self) -> list[str]:
        """The captions used in training."""
        count = len(self.style.trained + self.style.unseen)
        return [text for i, text in enumerate(self.texts) if i % count < len(self.style.trained)]

    def index(self, batch: Batch) -> Tensor:
        """Caption index of each sample, int64 (B,), from batch["u"]; without it, the first and plainest caption."""
        told, label, u = self.told(batch), batch["label"], self._u(batch)[:, 0]
        held_out = batch.get("unseen", torch.zeros_like(label, dtype=torch.bool))
        first, rest = len(self.style.trained), len(self.style.unseen)
        wording = torch.where(held_out, first + (u * rest).long(), (u * first).long())
        state = torch.zeros_like(label)
        for column in told.unbind(1):
            state = 3 * state + column
        return (label * 3 ** len(self.attributes) + state) * (first + rest) + wording

    def told(self, batch: Batch) -> Tensor:
        """Attribute words in the captions, int64 (B, attributes): 0 for none, 1 or 2 for the first or second word."""
        u, columns = self._u(batch), []
        for i, attribute in enumerate(self.attributes, start=1):
            rest = (u[:, i] - (1 - self.tell)) / max(self.tell, 1e-9)  # uniform if mentioned, negative if not
            level = attribute.level(batch["image"]) if "image" in batch else 1 + (2 * rest).long().clamp(0, 1)
            columns.append(torch.where(rest >= 0, level, 0))
        return torch.stack(columns, 1)

    def levels(self, images: Tensor) -> Tensor:
        """True attribute words of uint8 images: (B, C, H, W), encoded as in `told`."""
        return torch.stack([attribute.level(images) for attribute in self.attributes], 1)

    def _u(self, batch: Batch) -> Tensor:
        label = batch["label"]
        return batch["u"] if "u" in batch else torch.zeros(len(label), self.draws, device=label.device)


def _states(attributes: Sequence[Attribute]) -> list[tuple[str, ...]]:
    """The words of each state of the attributes; the last attribute varies fastest."""
    states: list[tuple[str, ...]] = [()]
    for attribute in attributes:
        states = [(*state, word) for state in states for word in ("", *attribute.words)]
    return states


def _said(wording: str, noun: str, state: tuple[str, ...]) -> str:
    adjective, tail = (*state, "")[:2]
    text = " ".join(wording.format(A="{A}", noun=noun, adjective=adjective, tail=tail).split())
    vowel = re.search(r"\{A\} (?!one\b)[aeiou]", text, re.IGNORECASE)
    return text.replace("{A}", "an" if vowel else "a")


def written(texts: Sequence[str]) -> Tensor:
    """Encode texts for batch["text"]: uint8 (B, N), UTF-8 padded with 0."""
    rows = [torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def read(rows: Tensor) -> list[str]:
    """Decode the output of `written`."""
    return [bytes(row).rstrip(b"\0").decode() for row in rows.tolist()]
