"""Pictures of points in the plane: scatter panels with paths and arrows, the same as an animation.

All panels of a picture share one square of axes, [-reach, reach]^2. Noisy points x_t are shown in units of their own
size, x_t/sqrt(alpha^2 + sigma^2), in which data of unit variance keeps it at every t and under every schedule.
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

REACH = 3.2  # three standard deviations and a little
_INCHES, _DPI = 2.4, 110


@dataclass(frozen=True)
class Panel:
    title: str
    points: Tensor  # (n, 2)
    colours: np.ndarray  # (n, 4)
    paths: Tensor | None = None  # (moments, k, 2): the ways of the first k points
    arrows: tuple[Tensor, Tensor] | None = None  # where from and how far, each (m, 2); the points are drawn pale then


def colours(points: Tensor, labels: Tensor | None) -> np.ndarray:
    """One colour a class, or without labels a scale of the distance from the centre: (n, 4)."""
    if labels is not None:
        return colormaps["tab10"](labels.numpy() % 10)
    distance = points.norm(dim=1)
    farthest = max([*distance.tolist(), 1e-12])  # there may be no points
    return colormaps["turbo"]((distance / farthest).clamp(0.05, 0.95).numpy())


def coloured(source: Points, samples: Tensor, labels: Tensor | None) -> np.ndarray:
    """The colours of samples, (n, 2): by the classes asked for, or else those of the nearest test points: (n, 4)."""
    if labels is not None:
        return colours(samples, labels)
    test = source.in_plane(source.test.images)
    known = colours(test, source.test.labels if source.num_classes else None)
    return known[torch.cdist(samples.double(), test).argmin(1).numpy()]


def unit(schedule: Schedule, t: Tensor) -> Tensor:
    """1/sqrt(alpha^2 + sigma^2) of the shape of t."""
    alpha, sigma = schedule(t)
    return (alpha**2 + sigma**2).rsqrt()


def angle(schedule: Schedule, t: Tensor | float) -> Tensor:
    """arctan(sigma/alpha), the share of noise: 0 at t = 0, rising to the schedule's end, at the most pi/2."""
    alpha, sigma = schedule(t)
    return torch.atan2(sigma, alpha)


def times(schedule: Schedule, shares: Sequence[float]) -> Tensor:
    """The times at which the angle is these shares of its last: what one sees changes evenly, whatever the schedule."""
    share = torch.tensor(list(shares), dtype=torch.float64)
    t = schedule.time(-2 * torch.log(torch.tan(share * angle(schedule, 1.0))))
    return torch.where(share == 0, 0.0, torch.where(share == 1, 1.0, t))


def nearest(schedule: Schedule, t: Sequence[float], count: int) -> list[int]:
    """Which `count` of the times t, falling from noise to data, stand most evenly in angle; fewer where some coincide.

    The first and the last are always among them.
    """
    seen = angle(schedule, torch.tensor(list(t), dtype=torch.float64))
    wanted = torch.linspace(float(seen[0]), float(seen[-1]), count, dtype=torch.float64)
    return sorted({0, len(t) - 1, *(int((seen - w).abs().argmin()) for w in wanted[1:-1])})


def panels(made: Sequence[Panel], reach: float = REACH, columns: int | None = None) -> np.ndarray:
    """The panels row by row, uint8 (h, w, 3)."""
    columns = len(made) if columns is None else columns
    rows = -(-len(made) // columns)
    figure = Figure(figsize=(_INCHES * columns, (_INCHES + 0.25) * rows), dpi=_DPI, layout="constrained")
    for place, panel in enumerate(made):
        _draw(figure, (rows, columns, place + 1), panel, reach)
    return _pixels(figure)


def beside(source: Points, samples: Tensor, labels: Tensor | None) -> np.ndarray:
    """As many test points as there are samples: (n, 2), and the samples, on the axes of the test points."""
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
    """A GIF that runs for `seconds`, stands still at its end for `hold` seconds and begins again."""
    images = []
    for panel in frames:
        figure = Figure(figsize=(3.4, 3.6), dpi=100, layout="constrained")
        _draw(figure, (1, 1, 1), panel, reach)
        images.append(Image.fromarray(_pixels(figure)))
    # One palette of few colours for all frames: a GIF then stores only what moves, and stays small.
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
    """A grid of side x side places in the square, float64 (side^2, 2), and the distance between neighbours."""
    line = torch.linspace(-0.94 * reach, 0.94 * reach, side, dtype=torch.float64)
    return torch.cartesian_prod(line, line), float(line[1] - line[0])


def saturated(vectors: Tensor, longest: float) -> Tensor:
    """v: (m, 2) in its direction, of its length l only l/(1 + l) times `longest`: long and short ones can be seen."""
    length = vectors.norm(dim=1, keepdim=True)
    return vectors / (1 + length) * longest


def reach_of(points: Tensor) -> float:
    """The half side of a square about 0 that holds these points, (n, 2), with a margin."""
    return 1.15 * max(float(points.abs().max()), math.ulp(1.0))
