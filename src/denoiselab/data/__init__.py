"""The `data` axis: sources of uint8 images or points, and the data module that feeds them to the trainer.

Names are imported at first use, so that `denoiselab.data.source` does not import Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from denoiselab.data.composition import Composition
    from denoiselab.data.datamodule import BatchStream, ImageDataModule
    from denoiselab.data.digits import Digits
    from denoiselab.data.fashion_mnist import FashionMNIST
    from denoiselab.data.image_folder import ImageFolder
    from denoiselab.data.points import Points
    from denoiselab.data.source import Batch, ImageSet, InMemory, Source, to_float, to_uint8

_MODULE_OF = {
    "Batch": "source",
    "BatchStream": "datamodule",
    "Composition": "composition",
    "Digits": "digits",
    "FashionMNIST": "fashion_mnist",
    "ImageDataModule": "datamodule",
    "ImageFolder": "image_folder",
    "ImageSet": "source",
    "InMemory": "source",
    "Points": "points",
    "Source": "source",
    "to_float": "source",
    "to_uint8": "source",
}

__all__ = [
    "Batch",
    "BatchStream",
    "Composition",
    "Digits",
    "FashionMNIST",
    "ImageDataModule",
    "ImageFolder",
    "ImageSet",
    "InMemory",
    "Points",
    "Source",
    "to_float",
    "to_uint8",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
