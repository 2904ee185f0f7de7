"""Pictures: grids of samples, denoising strips, loss curves. PNG files for people, arrays for loggers."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Curves = dict[str, tuple[list[float], list[float]]]  # name -> (steps, values)


def grid(images: Tensor, columns: int, pad: int = 1, zoom: bool = True) -> np.ndarray:
    """uint8 (N, C, H, W) -> one picture, uint8 (h, w) or (h, w, 3), white between; small images are enlarged."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.full((rows * columns, channels, height + pad, width + pad), 255, dtype=torch.uint8)
    sheet[:n, :, :height, :width] = images
    sheet = sheet.reshape(rows, columns, channels, height + pad, width + pad).permute(2, 0, 3, 1, 4)
    picture = sheet.reshape(channels, rows * (height + pad), columns * (width + pad))[:, :-pad, :-pad]
    if zoom:
        factor = max(1, 40 // max(height, width))
        picture = picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return picture[0].numpy() if channels == 1 else picture[:3].permute(1, 2, 0).numpy()


def write_png(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, optimize=True)


def loss_curve(curves: Curves, path: Path) -> None:
    """Drawn against the training step on a logarithmic scale; short runs get points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, label=name, marker="." if len(steps) < 30 else None, linewidth=1)
    axes.set(xlabel="training step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
