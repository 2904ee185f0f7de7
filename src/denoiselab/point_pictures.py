"""Pictures of points in the plane: scatter panels with paths and arrows, and animations of them.

All panels of a picture share one square of axes, [-reach, reach]^2. Noisy points are shown as x_t/sqrt(alpha^2 +
sigma^2), which has unit variance at every t and on every schedule if the data has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from denoiselab.data.points import Points
from denoiselab.files import replacing
from denoiselab.schedules import Schedule

REACH = 3.2  # just over three standard deviations
_INCHES, _DPI = 2.4, 110


@dataclass(frozen=True)
class Panel:
    title: str
    points: Tensor  # (n, 2)
    colours: np.ndarray  # (n, 4)
    paths: Tensor | None = None  # (times, k, 2): the paths of the first k points
    arrows: tuple[Tensor, Tensor] | None = None  # starts and vectors, each (m, 2); the points are then drawn pale


def colours(points: Tensor, labels: Tensor | None) -> np.ndarray:
    """Returns one colour per class, or without labels a scale of the distance from the centre: (n, 4)."""
    if labels is not None:
        return colormaps["tab10"](labels.numpy() % 10)
    distance = points.norm(dim=1)
    farthest = max([*distance.tolist(), 1e-12])  # there may be no points
    return colormaps["turbo"]((distance / farthest).clamp(0.05, 0.95).numpy())


def coloured(source: Points, samples: Tensor, labels: Tensor | None) -> np.ndarray:
    """Returns the colours of samples, (n, 2): by requested class, or else of the nearest test points: (n, 4)."""
    if labels is not None:
        return colours(samples, labels)
    test = source.in_plane(source.test.images)
    known = colours(test, source.test.labels if source.num_classes else None)
    return known[torch.cdist(samples.double(), test).argmin(1).numpy()]


def unit(schedule: Schedule, t: Tensor) -> Tensor:
    """Returns 1/sqrt(alpha^2 + sigma^2), of the shape of t."""
    alpha, sigma = schedule(t)
    return (alpha**2 + sigma**2).rsqrt()


def angle(schedule: Schedule, t: Tensor | float) -> Tensor:
    """Returns arctan(sigma/alpha), the share of noise: from 0 at t = 0 to at most pi/2 at the schedule's end."""
    alpha, sigma = schedule(t)
    return torch.atan2(sigma, alpha)


def times(schedule: Schedule, shares: Sequence[float]) -> Tensor:
    """Returns the times at which the angle is these shares of its last: pictures then change evenly on any schedule."""
    share = torch.tensor(list(shares), dtype=torch.float64)
    t = schedule.time(-2 * torch.log(torch.tan(share * angle(schedule, 1.0))))
    return torch.where(share == 0, 0.0, torch.where(share == 1, 1.0, t))


def nearest(schedule: Schedule, t: Sequence[float], count: int) -> list[int]:
    """Returns the indices of `count` descending times t most even in angle, with both ends; fewer if some coincide."""
    seen = angle(schedule, torch.tensor(list(t), dtype=torch.float64))
    wanted = torch.linspace(float(seen[0]), float(seen[-1]), count, dtype=torch.float64)
    return sorted({0, len(t) - 1, *(int((seen - w).abs().argmin()) for w in wanted[1:-1])})


def panels(made: Sequence[Panel], reach: float = REACH, columns: int | None = None) -> np.ndarray:
    """Draws the panels row by row: uint8 (h, w, 3)."""
    columns = len(made) if columns is None else columns
    rows = -(-len(made) // columns)
    figure = Figure(figsize=(_INCHES * columns, (_INCHES + 0.25) * rows), dpi=_DPI, layout="constrained")
    for place, panel in enumerate(made):
        _draw(figure, (rows, columns, place + 1), panel, reach)
    return _pixels(figure)


def beside(source: Points, samples: Tensor, labels: Tensor | None) -> np.ndarray:
    """Draws samples, (n, 2), beside as many test points, on the axes of the test points."""
    test = source.in_plane(source.test.images[: len(samples)])
    reach = reach_of(test)
    outside = int((samples.abs() > reach).any(1).sum())
    beyond = f", {outside} outside" if outside else ""
    truth = source.test.labels[: len(samples)] if source.num_classes else None
    known = [
        Panel(f"data ({len(test)})", test, colours(test, truth)),
        Panel(f"samples ({len(samples)}{beyond})", samples, coloured(source, samples, labels)),
    ]
    return panels(known, reach)


def animation(
    frames: Sequence[Panel], path: Path, reach: float = REACH, seconds: float = 4.0, hold: float = 1.5
) -> None:
    """Writes a GIF that runs for `seconds`, holds its last frame for `hold` seconds and repeats."""
    images = []
    for panel in frames:
        figure = Figure(figsize=(3.4, 3.6), dpi=100, layout="constrained")
        _draw(figure, (1, 1, 1), panel, reach)
        images.append(Image.fromarray(_pixels(figure)))
    # With one small palette for all frames, a GIF stores only what moves, and stays small.
    palette = images[-1].quantize(48, dither=Image.Dither.NONE)
    small = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [round(1000 * seconds / len(small))] * (len(small) - 1) + [round(1000 * hold)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        small[0].save(
            temporary, "GIF", save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=False
        )


def _draw(figure: Figure, place: tuple[int, int, int], panel: Panel, reach: float) -> None:
    axes = figure.add_subplot(*place)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    axes.set_title(panel.title, fontsize=9)
    size = max(0.6, min(4.0, 4000 / max(1, len(panel.points))))
    pale = 0.85 if panel.arrows is None else 0.3
    x, y = panel.points.T.numpy()
    axes.scatter(x, y, s=size, c=panel.colours, alpha=pale, linewidths=0)
    if panel.paths is not None:
        x, y = panel.paths.permute(2, 0, 1).numpy()
        axes.plot(x, y, color="black", linewidth=0.6, alpha=0.7)
        first = panel.colours[: x.shape[1]]
        axes.scatter(x[-1], y[-1], s=14, c=first, edgecolors="black", linewidths=0.6, zorder=3)
    if panel.arrows is not None:
        (x, y), (u, v) = (part.T.numpy() for part in panel.arrows)
        axes.quiver(x, y, u, v, angles="xy", scale_units="xy", scale=1, width=0.006, color="black")


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def field(reach: float = REACH, side: int = 15) -> tuple[Tensor, float]:
    """Returns a grid of side x side points in the square, float64 (side^2, 2), and its spacing."""
    line = torch.linspace(-0.94 * reach, 0.94 * reach, side, dtype=torch.float64)
    return torch.cartesian_prod(line, line), float(line[1] - line[0])


def saturated(vectors: Tensor, longest: float) -> Tensor:
    """Scales vectors (m, 2) of length l to `longest` times l/(1 + l), so that long and short ones are visible."""
    length = vectors.norm(dim=1, keepdim=True)
    return vectors / (1 + length) * longest


def reach_of(points: Tensor) -> float:
    """Returns the half side of a square about 0 that holds points (n, 2), with a margin."""
    return 1.15 * max(float(points.abs().max()), math.ulp(1.0))
