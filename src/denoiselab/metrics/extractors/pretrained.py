"""Helpers shared by the pretrained extractors: requirement checks and batched inference."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from denoiselab.data.source import Source
from denoiselab.errors import ConfigError
from denoiselab.metrics.extractor import Looked

TOGETHER = 64  # images per forward pass; about 1 GB at 299 x 299


def check_images(source: Source, option: str) -> None:
    """Raise ConfigError if the data are not greyscale or RGB images."""
    if len(source.shape) != 3 or source.shape[0] not in (1, 3):
        kind = "points" if len(source.shape) == 1 else f"images of {source.shape[0]} channels"
        raise ConfigError(
            f"extractor={option} looks at images that are grey or in colour, and data={source.name} are {kind}; "
            "take metrics=points or none"
        )


def need(option: str, extra: str, *modules: str) -> None:
    """Raise ConfigError if an extra's modules are not installed."""
    if not all(find_spec(module) for module in modules):
        raise ConfigError(
            f"extractor={option} needs the extra [{extra}], which is not installed; pip install 'denoiselab[{extra}]' "
            "brings it; or take extractor=classifier"
        )


def look_in_parts(images: Tensor, look: Callable[[Tensor], Looked]) -> Looked:
    """Apply `look` to all images in chunks, with greyscale expanded to three channels.

    Computes in full float32 without gradients, whatever the trainer's precision, so that a metric is the same during
    and after training up to the GPU's rounding.
    """
    with _exactly(images.device.type):
        parts = [look(part.expand(-1, 3, -1, -1)) for part in images.split(TOGETHER)]
    features, spatial, logits = zip(*parts, strict=True)
    return Looked(torch.cat(features), _joined(spatial), _joined(logits))


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


@contextmanager
def _exactly(device_type: str) -> Iterator[None]:
    with (
        torch.no_grad(),
        torch.autocast(device_type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),  # else convolutions use TF32
    ):
        yield


def freeze(extractor: nn.Module) -> None:
    extractor.float().eval().requires_grad_(False)
