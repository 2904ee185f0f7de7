"""Scenes of several objects, composed of another data set's images, for segmentation and layout conditioning.

Up to `most` objects are placed at random on a dark canvas without touching, in colours independent of their classes.
Training scenes use training images only, test scenes test images only. Scene i is a function of (seed, split, i), the
same on every machine and for any number of scenes.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from os import PathLike
from typing import Annotated, Literal, final

import torch

from denoiselab.data.digits import Digits
from denoiselab.data.fashion_mnist import FashionMNIST
from denoiselab.data.scenes import COLOURS, TRIES, Drawn, render
from denoiselab.data.source import Batch, ImageSet, Source
from denoiselab.errors import ConfigError
from denoiselab.limits import AtLeastTwo, Count, Limit, Natural, checked
from denoiselab.randomness import generator

LEAST = 16  # pixels per side; the largest object has half of it, and digits below 8 pixels are illegible


@final
class Scenes(ImageSet):
    """Scenes in memory. Besides "image" and "label", the class of the leftmost object, a batch has

    "segmentation", uint8 (B, 1, H, W): 0 for background, or 1 + the object's class;
    "boxes", int64 (B, most, 5): class, x0, y0, x1, y1 of the objects from left to right, in pixels, x1 and y1
    exclusive, tight around the object's segmentation; missing objects have class -1 and zeros.
    """

    def __init__(self, scenes: Batch) -> None:
        self._scenes = scenes
        self.labels = scenes["label"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.tensor(indices, dtype=torch.int64)
        return {key: value[index] for key, value in self._scenes.items()}


@final
class Composition(Source):
    """`train` and `test` scenes of size x size pixels, in colour or grey (channels 3 or 1).

    objects: digits, fashion_mnist (from the folder `root`) or a source of square images. An object's side is a quarter
    to half of the canvas, and at least 8 pixels. Raises DataError for a folder without the images.
    """

    name = "composition"
    flip = False

    @checked
    def __init__(
        self,
        objects: Literal["digits", "fashion_mnist"] | Source = "digits",
        root: str | PathLike[str] | None = None,
        size: Annotated[int, Limit(LEAST, whole=True)] = 16,
        channels: Literal[1, 3] = 3,
        most: Count = 2,
        train: AtLeastTwo = 4096,
        test: AtLeastTwo = 512,
        seed: Natural = 0,
    ) -> None:
        self.objects = _source(objects, root)
        self.class_names = self.objects.class_names
        self.most, self._size, self._channels = most, size, channels
        self._sizes, self._seed = {"train": train, "test": test}, seed

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self._channels, self._size, self._size)

    @cached_property
    def train(self) -> Scenes:
        return self._composed(self.objects.train, "train")

    @cached_property
    def test(self) -> Scenes:
        return self._composed(self.objects.test, "test")

    def _composed(self, objects: ImageSet, split: str) -> Scenes:
        drawn = self._drawn(len(objects), split)
        needed, where = drawn.image.unique(return_inverse=True)
        images = objects.__getitems__(needed.tolist())
        drawn = drawn._replace(image=where)
        return Scenes(render(images["image"], images["label"], drawn, self._size, self._channels))

    def _drawn(self, images: int, split: str) -> Drawn:
        numbers = 1 + self.most * (3 + 2 * TRIES)
        rows = [
            torch.rand(numbers, generator=generator("scene", self._seed, split, i), dtype=torch.float64)
            for i in range(self._sizes[split])
        ]
        count, chosen, place = torch.stack(rows).split([1, 3 * self.most, 2 * TRIES * self.most], 1)
        image, side, colour = chosen.reshape(-1, 3, self.most).unbind(1)
        low, high = max(8, self._size // 4), self._size // 2
        return Drawn(
            wanted=1 + (count[:, 0] * self.most).long(),
            image=(image * images).long(),
            side=low + (side * (high + 1 - low)).long(),
            colour=(colour * len(COLOURS)).long(),
            place=place.reshape(-1, TRIES, self.most, 2),
        )


def _source(objects: str | Source, root: str | PathLike[str] | None) -> Source:
    if isinstance(objects, Source):
        return objects
    return OBJECTS[objects](root)


def _digits(root: str | PathLike[str] | None) -> Source:
    if root is not None:
        raise ConfigError(f"data.root={str(root)!r} is for data.objects=fashion_mnist; digits need none, leave it out")
    return Digits()


OBJECTS: dict[str, Callable[[str | PathLike[str] | None], Source]] = {"digits": _digits, "fashion_mnist": FashionMNIST}
