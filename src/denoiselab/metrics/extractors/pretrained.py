"""What extractors with weights of their own share: what they need, and how images come to them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from denoiselab.data.source import Source
from denoiselab.errors import ConfigError
from denoiselab.metrics.extractor import Looked

TOGETHER = 64  # images that go through a network at once: at 299 x 299 they take about 1 GB


def check_images(source: Source, option: str) -> None:
    """Raises ConfigError for data that are no images, grey or in colour."""
    if len(source.shape) != 3 or source.shape[0] not in (1, 3):
        kind = "points" if len(source.shape) == 1 else f"images of {source.shape[0]} channels"
        raise ConfigError(
            f"extractor={option} looks at images that are grey or in colour, and data={source.name} are {kind}; "
            "take metrics=points or none"
        )


def need(option: str, extra: str, *modules: str) -> None:
    """Raises ConfigError where an extra's modules are not installed."""
    if not all(find_spec(module) for module in modules):
        raise ConfigError(
            f"extractor={option} needs the extra [{extra}], which is not installed; pip install 'denoiselab[{extra}]' "
            "brings it; or take extractor=classifier"
        )


def look_in_parts(images: Tensor, look: Callable[[Tensor], Looked]) -> Looked:
    """What `look` sees in all the images, some at a time, grey ones in three channels.

    In float32 in full, without gradients, whatever the trainer has switched on: a figure should be the same while
    training and afterwards, as far as a GPU's rounding allows.
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
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),  # convolutions in TF32 else
    ):
        yield


def freeze(extractor: nn.Module) -> None:
    extractor.float().eval().requires_grad_(False)
