"""Decode image files to uint8 squares: upright, on white, centre-cropped, resized with antialiasing."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from denoiselab.errors import DataError

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
_FORMATS = ("JPEG", "PNG", "WEBP")
_DEEP_GREYS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_GREYS = ("1", "L", "LA", *_DEEP_GREYS)
_MODES = {1: "L", 3: "RGB"}
_SLOW = 500  # files; fewer are read too fast for a progress bar

_T = TypeVar("_T")
_R = TypeVar("_R")


def decode(path: Path, size: int, channels: int) -> np.ndarray:
    """Decode a file to uint8 (channels, size, size); channels is 1 (luma) or 3 (RGB)."""
    with _opened(path) as file:
        image = _flatten(ImageOps.exif_transpose(file)).convert(_MODES[channels])
        # Same as resizing the whole image and cropping it, without the cost of the margins.
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    return np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1)


def decode_all(paths: Sequence[Path], size: int, channels: int, progress: str | None = None) -> torch.Tensor:
    """Decode files in threads to uint8 (N, channels, size, size). `progress`: title of a bar, shown for many files."""
    images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
    rows = images.numpy()

    def fill(i: int) -> None:
        rows[i] = decode(paths[i], size, channels)

    for _ in _in_threads(fill, range(len(paths)), progress):
        pass
    return images


def common_channels(paths: Sequence[Path]) -> int:
    """1 if all files are grey, 3 if all are in colour, from their headers. Raises DataError for a mixture."""
    greys = list(_in_threads(is_grey, paths, "Reading image headers"))
    if any(greys) and not all(greys):
        grey, colour = str(paths[greys.index(True)]), str(paths[greys.index(False)])
        raise DataError(
            f"{grey!r} is grey and {colour!r} is in colour; set data.channels=1 or data.channels=3 to convert all"
        )
    return 1 if greys[0] else 3


def is_grey(path: Path) -> bool:
    """Whether the file's format is grey. A palette is if all its entries are; WebP, without a grey mode, never is."""
    with _opened(path) as image:
        if image.mode == "P":
            red, green, blue = np.array(image.getpalette("RGB")).reshape(-1, 3).T
            return bool((red == green).all() and (green == blue).all())
        return image.mode in _GREYS


def _flatten(image: Image.Image) -> Image.Image:
    """Convert to 8 bits per channel, on white where transparent."""
    if image.mode in _DEEP_GREYS:
        # Pillow's conversion clips at 255 instead of scaling; 65535 = 257 * 255.
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            yield image
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{str(path)!r} cannot be decoded ({reason}); remove or repair the file") from error


def _in_threads(function: Callable[[_T], _R], items: Sequence[_T], progress: str | None) -> Iterable[_R]:
    """Map `function` over items, in order. Decoders release the GIL, so threads use all cores."""
    # DataLoader workers have one torch thread each, so they decode in one thread.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        results = pool.map(function, items)
        if progress is not None and len(items) >= _SLOW and (console := Console(stderr=True)).is_terminal:
            yield from track(results, progress, len(items), console=console, transient=True)
        else:
            yield from results
