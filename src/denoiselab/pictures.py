"""Pictures: grids of samples, denoising strips, loss curves. PNG files for people, arrays for loggers."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as nnf

from denoiselab.files import replacing


class Bar(NamedTuple):
    """A bar from `low` to `high` on the x-axis, with a symmetric error."""

    low: float
    high: float
    value: float
    error: float


TOLD = "of each: what was told, the sample, the real image"

Curves = dict[str, tuple[list[float], list[float]]]  # name -> (steps, values)


def grid(images: Tensor, columns: int, pad: int = 1, zoom: bool = True, side: int | None = None) -> np.ndarray:
    """Tiles uint8 images (N, C, H, W), with white lines between: uint8 (h, w) or (h, w, 3). Enlarges small images.

    side: the side in pixels of what is seen as one image, if not that of (H, W).
    """
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.full((rows * columns, channels, height + pad, width + pad), 255, dtype=torch.uint8)
    sheet[:n, :, :height, :width] = images
    sheet = sheet.reshape(rows, columns, channels, height + pad, width + pad).permute(2, 0, 3, 1, 4)
    picture = sheet.reshape(channels, rows * (height + pad), columns * (width + pad))[:, :-pad, :-pad]
    if zoom:
        factor = max(1, 40 // (side or max(height, width)))
        picture = picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return picture[0].numpy() if channels == 1 else picture[:3].permute(1, 2, 0).numpy()


def groups(images: Tensor, columns: int, legend: str = "") -> np.ndarray:
    """Tiles uint8 groups of V related images, (N, V, C, H, W), 1.5 times as wide as `columns` images.

    legend: describes the images of a group; written above where V > 1.
    """
    views = images.shape[1]
    if views == 1:
        return grid(images[:, 0], columns)
    beside = nnf.pad(images, (0, 1), value=255).permute(0, 2, 3, 1, 4).flatten(3)  # (N, C, H, V (W + 1))
    apart = nnf.pad(beside, (0, 1), value=255)
    picture = grid(apart, min(len(images), max(1, round(1.5 * columns / views))), side=max(images.shape[-2:]))
    return captioned([(legend, picture)]) if legend else picture


def captioned(parts: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Stacks pictures, uint8 (h, w) or (h, w, 3), each below its caption: uint8 (H, W, 3)."""
    coloured = [np.stack([p] * 3, -1) if p.ndim == 2 else p for _, p in parts]
    width = max(320, *(picture.shape[1] for picture in coloured))
    rows: list[np.ndarray] = []
    for (text, _), picture in zip(parts, coloured, strict=True):
        white = np.full((picture.shape[0] + 6, width, 3), 255, dtype=np.uint8)
        white[: picture.shape[0], : picture.shape[1]] = picture
        rows += [_lettered(text, width), white]
    return np.concatenate(rows)


def _lettered(text: str, width: int) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wrapped = textwrap.wrap(text, width // 7) or [""]
    figure = Figure(figsize=(width / 100, (16 * len(wrapped) + 6) / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.text(0.0, 0.5, "\n".join(wrapped), fontsize=9, va="center", parse_math=False)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def write_png(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG", optimize=True)


def side_by_side(titled: Sequence[tuple[str, np.ndarray | None]], columns: int) -> np.ndarray:
    """Draws titled pictures, uint8 (h, w) or (h, w, 3), in rows of `columns`: uint8 (h, w, 3). None leaves a gap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(titled) // columns)
    ratio = max((p.shape[0] / p.shape[1] for _, p in titled if p is not None), default=1.0)
    figure = Figure(figsize=(3.4 * columns, (3.4 * ratio + 0.3) * rows), dpi=110, layout="constrained")
    for place, (title, picture) in enumerate(titled, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
        if picture is not None:
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def loss_curve(curves: Curves, path: Path) -> None:
    """Plots losses on a logarithmic scale against the training step; short runs get markers."""
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
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def bars(drawn: Sequence[Bar], x: str, y: str, title: str, path: Path) -> np.ndarray:
    """Writes a histogram with error bars to a file; returns it as uint8 (h, w, 3)."""
    canvas, axes = _canvas()
    low, high, values, errors = zip(*drawn, strict=True)
    middles, widths = [(a + b) / 2 for a, b in zip(low, high, strict=True)], np.subtract(high, low)
    axes.bar(middles, values, widths, yerr=errors, capsize=2, edgecolor="white", error_kw={"linewidth": 1})
    return _finished(canvas, axes, x, y, title, path)


def stairs(
    edges: Sequence[tuple[float, float]],
    drawn: dict[str, list[float]],
    x: str,
    title: str,
    path: Path,
    logarithmic: Sequence[str] = (),
) -> np.ndarray:
    """Writes step functions, one panel per name, to a file; returns them as uint8 (h, w, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.4 * len(drawn)), dpi=110, layout="constrained")
    canvas, panels = FigureCanvasAgg(figure), figure.subplots(len(drawn), sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, drawn.items(), strict=True):
        axes.stairs(values, [edges[0][0], *(high for _, high in edges)], linewidth=1.5, baseline=None)
        axes.set(ylabel=name, yscale="log" if name in logarithmic else "linear")
        axes.grid(alpha=0.3)
    panels[0].set_title(title, fontsize=9)
    panels[-1].set(xlabel=x)
    return _written(canvas, path)


def curve(x: list[float], y: list[float], x_name: str, y_name: str, title: str, path: Path) -> np.ndarray:
    """Writes a line plot to a file; returns it as uint8 (h, w, 3). The y-axis is logarithmic if values span 300x."""
    canvas, axes = _canvas()
    axes.plot(x, y, linewidth=1.5)
    most = sorted(y)[len(y) // 10 :]
    if most[0] > 0 and most[-1] / most[0] > 300:
        axes.set(yscale="log", ylim=(most[-1] * 1e-6, most[-1] * 2))
    return _finished(canvas, axes, x_name, y_name, title, path)


def lines(curves: Curves, x_name: str, y_name: str, title: str, path: Path) -> np.ndarray:
    """Writes named lines on logarithmic axes to a file; returns them as uint8 (h, w, 3)."""
    canvas, axes = _canvas()
    for index, (name, (x, y)) in enumerate(curves.items()):
        style = "-" if index < 10 else "--"  # matplotlib cycles through ten colours
        axes.plot(x, y, style, label=name, linewidth=1.2, marker="o" if len(x) != 2 else None, markersize=3)
    axes.set(xscale="log", yscale="log")
    ticks: list[float] = []
    for value in sorted({value for x, _ in curves.values() for value in x}):
        if not ticks or value > 1.12 * ticks[-1]:  # closer labels would overlap
            ticks.append(value)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    return _finished(canvas, axes, x_name, y_name, title, path)


def _canvas() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    return FigureCanvasAgg(figure), figure.add_subplot()


def _finished(canvas: Any, axes: Any, x_name: str, y_name: str, title: str, path: Path) -> np.ndarray:
    axes.set(xlabel=x_name, ylabel=y_name)
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    return _written(canvas, path)


def _written(canvas: Any, path: Path) -> np.ndarray:
    canvas.draw()
    picture = np.array(canvas.buffer_rgba())[..., :3]
    write_png(picture, path)
    return picture
