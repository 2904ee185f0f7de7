"""Captions from templates: what an image is of, in several wordings, some of which are never trained on.

A caption is one of a finite table of strings,

    index = ((label S + told) W + wording),   S states of the attributes, W wordings,

so that a frozen encoder reads each of them once. Attributes are measured from an image's pixels, or, where samples are
asked for and there is none, drawn; which of them a caption tells is drawn too.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.data.source import Batch
from denoiselab.errors import ConfigError


class Attribute(NamedTuple):
    """A number measured of uint8 images, (B, C, H, W) -> (B,): below `low` it has the first word, above `high` the
    second, and in between there is nothing to say."""

    measure: Callable[[Tensor], Tensor]
    low: float
    high: float
    words: tuple[str, str]

    def level(self, images: Tensor) -> Tensor:
        """0: nothing to say, 1: the first word, 2: the second; int64 (B,)."""
        value = self.measure(images)
        return (value < self.low).long() + 2 * (value > self.high).long()


class Style(NamedTuple):
    """Wordings in which {A} is "a" or "an", {adjective} and {tail} are an attribute's word or nothing."""

    trained: tuple[str, ...]
    unseen: tuple[str, ...]  # in words of the trained ones, so that only their order is new
    adjective: Attribute
    tail: Attribute | None = None

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        return (self.adjective,) if self.tail is None else (self.adjective, self.tail)


def intensity(images: Tensor) -> Tensor:
    """The mean of all pixels in [0, 1]; of strokes on black, how thick and strong they are."""
    return images.float().flatten(1).mean(1) / 255


def brightness(images: Tensor) -> Tensor:
    """The mean of the pixels that are not black, in [0, 1]: of a thing on black, its own."""
    pixels = images.float().flatten(1) / 255
    return pixels.sum(1) / (pixels > 0).sum(1).clamp(min=1)


def slant(images: Tensor) -> Tensor:
    """By how many columns a row is shifted to the right of the one below: -mu_11/mu_02 of the image's moments."""
    ink = images.float().mean(1)
    y = torch.arange(ink.shape[1], device=ink.device).float()[:, None]
    x = torch.arange(ink.shape[2], device=ink.device).float()
    mass = ink.sum((1, 2)).clamp(min=1e-9)
    dy, dx = (v - ((ink * v).sum((1, 2)) / mass)[:, None, None] for v in (y, x))
    return -(ink * dy * dx).sum((1, 2)) / (ink * dy**2).sum((1, 2)).clamp(min=1e-9)


# The thresholds part data=digits into 34% thin and 34% bold, 32% slanted to the left and 11% to the right.
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
# A third each of data=fashion_mnist.
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
    """Of the classes of these names: `texts` is the table. Digits are handwriting, folders' names stay as they are.

    tell: the chance with which a caption tells each attribute. draws: how many uniform numbers a caption is made of.
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
        """Those of the table that training may tell."""
        count = len(self.style.trained + self.style.unseen)
        return [text for i, text in enumerate(self.texts) if i % count < len(self.style.trained)]

    def index(self, batch: Batch) -> Tensor:
        """Which caption each sample has, int64 (B,): of batch["u"], where there is none the first and barest one."""
        told, label, u = self.told(batch), batch["label"], self._u(batch)[:, 0]
        held_out = batch.get("unseen", torch.zeros_like(label, dtype=torch.bool))
        first, rest = len(self.style.trained), len(self.style.unseen)
        wording = torch.where(held_out, first + (u * rest).long(), (u * first).long())
        state = torch.zeros_like(label)
        for column in told.unbind(1):
            state = 3 * state + column
        return (label * 3 ** len(self.attributes) + state) * (first + rest) + wording

    def told(self, batch: Batch) -> Tensor:
        """What captions say of each attribute, int64 (B, attributes): 0 nothing, 1 or 2 its first or second word."""
        u, columns = self._u(batch), []
        for i, attribute in enumerate(self.attributes, start=1):
            rest = (u[:, i] - (1 - self.tell)) / max(self.tell, 1e-9)  # uniform where it is told, negative elsewhere
            level = attribute.level(batch["image"]) if "image" in batch else 1 + (2 * rest).long().clamp(0, 1)
            columns.append(torch.where(rest >= 0, level, 0))
        return torch.stack(columns, 1)

    def levels(self, images: Tensor) -> Tensor:
        """What could truly be told of uint8 images: (B, C, H, W), as `told` has it."""
        return torch.stack([attribute.level(images) for attribute in self.attributes], 1)

    def _u(self, batch: Batch) -> Tensor:
        label = batch["label"]
        return batch["u"] if "u" in batch else torch.zeros(len(label), self.draws, device=label.device)


def _states(attributes: Sequence[Attribute]) -> list[tuple[str, ...]]:
    """The words of each state of the attributes, the last one running fastest."""
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
    """Texts as a batch holds them, batch["text"]: uint8 (B, N), UTF-8 with 0 after the end."""
    rows = [torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def read(rows: Tensor) -> list[str]:
    """The texts again."""
    return [bytes(row).rstrip(b"\0").decode() for row in rows.tolist()]
