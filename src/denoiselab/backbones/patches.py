"""Images as patches and back: what the transformers share."""

from torch import Tensor

from denoiselab.errors import ConfigError


def check_patches(shape: tuple[int, int, int], patch: int, width: int, heads: int) -> None:
    """Raises ConfigError where the patch does not divide the image's sides, or the heads the width."""
    _, height, side = shape
    if height % patch or side % patch:
        raise ConfigError(
            f"backbone.patch={patch} does not divide the image's sides {height} and {side}; take a divisor of both"
        )
    if width % heads:
        raise ConfigError(f"backbone.heads={heads} does not divide backbone.width={width}; take a divisor of it")


def joined(patches: Tensor, rows: int, patch: int) -> Tensor:
    """(B, L, C patch^2), row by row -> (B, C, H, W) of `rows` patches in height."""
    grid = patches.unflatten(1, (rows, -1)).unflatten(-1, (-1, patch, patch))  # (B, rows, columns, C, p, p)
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
