"""Patch operations shared by the transformers."""

from torch import Tensor

from denoiselab.errors import InvalidValue


def check_patches(shape: tuple[int, int, int], patch: int, width: int, heads: int) -> None:
    """Raise InvalidValue if patch does not divide the image's sides, or heads the width."""
    _, height, side = shape
    if height % patch or side % patch:
        raise InvalidValue("patch", patch, f"a divisor of the image's sides, {height} and {side}")
    if width % heads:
        raise InvalidValue("heads", heads, f"a divisor of width={width}")


def joined(patches: Tensor, rows: int, patch: int) -> Tensor:
    """Assemble patches, row by row, into images `rows` patches high: (B, L, C patch^2) -> (B, C, H, W)."""
    grid = patches.unflatten(1, (rows, -1)).unflatten(-1, (-1, patch, patch))  # (B, rows, columns, C, p, p)
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
