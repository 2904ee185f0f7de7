"""Images as patches and back: what the transformers share."""

from torch import Tensor

from denoiselab.errors import InvalidValue


def check_patches(shape: tuple[int, int, int], patch: int, width: int, heads: int) -> None:
    """Raises InvalidValue where the patch does not divide the image's sides, or the heads the width."""
    _, height, side = shape
    if height % patch or side % patch:
        raise InvalidValue("patch", patch, f"a divisor of the image's sides, {height} and {side}")
    if width % heads:
        raise InvalidValue("heads", heads, f"a divisor of width={width}")


def joined(patches: Tensor, rows: int, patch: int) -> Tensor:
    """(B, L, C patch^2), row by row -> (B, C, H, W) of `rows` patches in height."""
    grid = patches.unflatten(1, (rows, -1)).unflatten(-1, (-1, patch, patch))  # (B, rows, columns, C, p, p)
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
