"""Data of the line charts: metrics against cost and guidance, and per-run curves by log-SNR."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from denoiselab.report.charts import COLOURS, Chart, Series, Style
from denoiselab.report.statistics import half_width
from denoiselab.report.study import Axis, Setting, Study
from denoiselab.report.tables import name_of
from denoiselab.report.words import Word, shown

LINES = 12  # per chart


class Styles:
    """Consistent styles by name for all charts.

    With two training axes, the first sets a model's colour and the second its dashes and marker.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.samplers = study, dict[str, Style]()
        axes = study.training_axes
        self.paired = len(axes) == 2 and len(axes[0].values) <= COLOURS and len(axes[1].values) <= 4
        self.models = list(study.trainings())

    def of_model(self, words: tuple[Word, ...]) -> Style:
        if self.paired:
            first, second = (
                axis.values.index(word) for axis, word in zip(self.study.training_axes, words, strict=True)
            )
            return Style(first, second, second)
        number = self.models.index(words)
        return Style(number % COLOURS, number, number // COLOURS)

    def of_sampler(self, name: str) -> Style:
        number = len(self.samplers)
        return self.samplers.setdefault(name, Style(number % COLOURS, number, number // COLOURS))


Cost = Callable[[Setting], float | None]


class Curve(NamedTuple):
    """A run's curve: log-SNR x and values y."""

    x: np.ndarray
    y: np.ndarray


def by_cost(study: Study, styles: Styles) -> list[Chart]:
    """Chart the headline against network evaluations and against seconds per image, one line per sampler.

    Shows means over all models if the design is complete, and the best model alone.
    """
    models = study.trainings()
    if not models:
        return []
    words, settings = max(models.items(), key=lambda item: len(item[1]))  # on ties the first, which ranks higher
    moving = [axis for axis in study.sampling_axes if axis.key not in ("sampler.steps", "step")]
    groups = _grouped(settings, moving)
    over = _over_models(study, list(groups.values())) if len(models) > 1 else None
    of = f"of {_model(study, words)}, " if study.training_axes else ""
    name = name_of(study)
    found = []
    for key, x, title, unit in (
        ("nfe", _nfe, "network evaluations", "network evaluations of a sample"),
        ("time", _seconds, "seconds an image", "seconds that a sample takes, measured where it was evaluated"),
    ):
        if over is not None:
            said = (
                f"{name} against {unit}: means over {over.counted}, with 95% intervals of the difference to their mean"
            )
            found.append(Chart(f"{key}-all", title, f"mean {name}", _averaged(over, groups, x, study, styles), said))
        series = []
        for label, group in groups.items():
            points = sorted(((at, s) for s in group if (at := x(s)) is not None), key=lambda point: point[0])
            if points:
                series.append(_with_intervals(label, styles.of_sampler(label), points))
        said = f"{name} against {unit}, {of}a line for each way of sampling; intervals as in the ranking"
        found.append(Chart(key, title, name, _best(series), said))
    return [_costed(chart, study) for chart in found if len({at for s in chart.series for at in s.x}) > 1]


def _costed(chart: Chart, study: Study) -> Chart:
    ticks = sorted({at for one in chart.series for at in one.x}) if chart.name.startswith("nfe") else ()
    return chart._replace(log_x=True, log_y=True, floor=study.drawn_floor, ticks=ticks)


class Over(NamedTuple):
    """Ways of sampling over the same models and seeds: settings, mean and interval half-width of each."""

    found: dict[tuple[Word, ...], tuple[list[Setting], float, float | None]]
    counted: str


def _over_models(study: Study, groups: Sequence[Sequence[Setting]]) -> Over | None:
    """Average over the models and seeds shared by all ways of sampling in the groups; None if there are none."""
    ways = [_way(setting, study) for group in groups for setting in group]
    models = [
        {way: setting for setting in settings if (way := _way(setting, study)) in ways}
        for settings in study.trainings().values()
    ]
    models = [model for model in models if len(model) == len(ways)]
    seeds = [seed for seed in study.seeds if all(seed in s.by_seed() for model in models for s in model.values())]
    if len(models) < 2 or not seeds or len(ways) < 2:
        return None
    # (ways, seeds), mean over models; effects of a seed common to all ways are removed from the intervals
    means = np.mean([[[model[way].by_seed()[seed] for seed in seeds] for way in ways] for model in models], 0)
    halves = [half_width(row) for row in means - means.mean(0)]
    found = {
        way: ([model[way] for model in models], float(row.mean()), half)
        for way, row, half in zip(ways, means, halves, strict=True)
    }
    return Over(found, f"{len(models)} models and {len(seeds)} seed{'s' * (len(seeds) != 1)}, the same for all points")


def _way(setting: Setting, study: Study) -> tuple[Word, ...]:
    return tuple(setting.words[axis.key] for axis in study.sampling_axes)


def _averaged(over: Over, groups: dict[str, list[Setting]], x: Cost, study: Study, styles: Styles) -> list[Series]:
    series = []
    for label, group in groups.items():
        points = []
        for settings, mean, half in (over.found[_way(setting, study)] for setting in group):
            costs = [cost for setting in settings if (cost := x(setting)) is not None]
            if costs:
                ends = (None, None) if half is None else (mean - half, mean + half)
                points.append((float(np.mean(costs)), mean, *ends))
        if points:
            series.append(Series(label, styles.of_sampler(label), *map(list, zip(*sorted(points), strict=True))))
    return series


def tradeoff(study: Study, styles: Styles) -> Chart | None:
    """Chart the headline against class accuracy, joining points of one model and sampler in order of guidance.scale."""
    scale = next((axis for axis in study.axes if axis.key == "guidance.scale"), None)
    if scale is None:
        return None
    others = [axis for axis in study.axes if axis is not scale]
    models = [axis for axis in others if not axis.samples]
    series = []
    for label, group in _grouped(study.settings, others).items():
        points = [
            (accuracy, s)
            for s in sorted(group, key=lambda s: _number(s.words[scale.key]))
            if (accuracy := s.mean("class_accuracy")) is not None and s.words[scale.key] is not None
        ]
        if len(points) > 1:
            style = styles.of_model(tuple(group[0].words[axis.key] for axis in models)) if models else None
            notes = [shown(s.words[scale.key]) for _, s in points]
            series.append(_with_intervals(label, style or styles.of_sampler(label), points)._replace(notes=notes))
    if not series:
        return None
    name = name_of(study)
    said = f"{name} against class accuracy; the numbers are guidance.scale, and points are joined in its order"
    return Chart("guidance", "share named as the class asked for", name, _best(series), said, log_y=_wide(series))


def by_log_snr(study: Study, styles: Styles) -> list[Chart]:
    """Chart loss, bits/dim and effective weight by log-SNR, one line per model, averaged over seeds."""
    found = []
    for name, title, read, said, log in (
        ("loss", "eps-MSE", _loss, "Error of the predicted noise on the test images, of averaged weights", _wide),
        ("bits", "bits/dim for one unit of log-SNR", _bits,
         "The variational bound's diffusion part by log-SNR: on linear axes the area below a line is its "
         "bits/dim", _spanning),
        ("weight", "effective weight", _weight,
         "The loss's weight on the eps-MSE times the density of the drawn times: equal lines are equal expected losses "
         "(Kingma & Gao 2023)", _wide),
    ):  # fmt: skip
        curves: dict[tuple[Word, ...], Curve] = {}
        for words, settings in study.trainings().items():
            read_ones = [read(run) for run in dict.fromkeys(row.run for s in settings for row in s.rows) if run]
            curve = _mean([one for one in read_ones if one is not None])
            if curve is not None:
                curves[words] = curve
        series = _merged(study, styles, curves)
        if series:
            x = "log-SNR (noise at the left)"
            found.append(Chart(name, x, title, _best(series), said, log_y=log(series), points=False))
    return found


def _merged(study: Study, styles: Styles, curves: dict[tuple[Word, ...], Curve]) -> list[Series]:
    """Series of the models, merging those with equal curves under their common label."""
    groups: list[tuple[Curve, list[tuple[Word, ...]]]] = []
    for words, curve in curves.items():
        same = next((group for other, group in groups if _equal(curve, other)), None)
        if same is None:
            groups.append((curve, [words]))
        else:
            same.append(words)
    series = []
    for curve, models in groups:
        label = " / ".join(_model(study, words) for words in models)
        if len(models) > 1:
            shared = [len({words[i] for words in models}) == 1 for i in range(len(study.training_axes))]
            kept = [axis for axis, keep in zip(study.training_axes, shared, strict=True) if keep]
            here = dict(zip((axis.key for axis in study.training_axes), models[0], strict=True))
            label = Setting(here, ()).label(kept) or "all"
            label += f" ({len(models)} models)"
        style = styles.of_model(models[0])
        if len(models) > 1:
            style = Style(style.colour if shared[0] else 5)  # grey if they differ in the axis that sets the colour
        series.append(Series(label, style, curve.x.tolist(), curve.y.tolist()))
    return series


def _equal(one: Curve, other: Curve) -> bool:
    return len(one.x) == len(other.x) and np.allclose(one.x, other.x) and np.allclose(one.y, other.y, rtol=1e-6, atol=0)


def _mean(curves: Sequence[Curve]) -> Curve | None:
    """Mean over runs with the same x as the first."""
    same = [one.y for one in curves if len(one.x) == len(curves[0].x) and np.allclose(one.x, curves[0].x)]
    return Curve(curves[0].x, np.mean(same, 0)) if same else None


def _loss(run: Path) -> Curve | None:
    return _binned(run / "loss_by_log_snr.csv", lambda row: float(row["eps_mse"]))


def _bits(run: Path) -> Curve | None:
    return _binned(
        run / "likelihood.csv",
        lambda row: float(row["bits_per_dim"]) / abs(float(row["log_snr_to"]) - float(row["log_snr_from"])),
    )


def _weight(run: Path) -> Curve | None:
    rows = _table(run / "weight.csv")
    pairs = sorted((float(row["log_snr"]), float(row["weight"])) for row in rows)
    return Curve(*np.array(pairs).T) if pairs else None


def _binned(path: Path, value: Callable[[dict[str, str]], float]) -> Curve | None:
    """Values of the bins at their centres, from noise to data."""
    rows = [row for row in _table(path) if row.get("log_snr_from") and row.get("log_snr_to")]
    try:
        pairs = sorted(((float(r["log_snr_from"]) + float(r["log_snr_to"])) / 2, value(r)) for r in rows)
    except (KeyError, ValueError, ZeroDivisionError):  # points have nats, not bits; empty bins have no mean
        return None
    return Curve(*np.array(pairs).T) if len(pairs) > 1 else None


def _table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _grouped(settings: Iterable[Setting], axes: Sequence[Axis]) -> dict[str, list[Setting]]:
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(setting.label(axes) or str(setting.rows[0].words.get("sampler", "all")), []).append(setting)
    return groups


def _with_intervals(label: str, style: Style, points: Sequence[tuple[float, Setting]]) -> Series:
    estimates = [setting.estimate for _, setting in points]
    return Series(
        label,
        style,
        [x for x, _ in points],
        [estimate.mean for estimate in estimates],
        [estimate.low for estimate in estimates],
        [estimate.high for estimate in estimates],
    )


def _best(series: list[Series]) -> list[Series]:
    """Limit to the series with the lowest minima."""
    if len(series) <= LINES:
        return series
    kept = sorted(series, key=lambda one: min(one.y))[:LINES]
    return [one for one in series if one in kept]


def _wide(series: Sequence[Series]) -> bool:
    """Whether to use a logarithmic axis."""
    values = [y for one in series for y in one.y]
    return min(values) > 0 and max(values) > 10 * min(values)


def _spanning(series: Sequence[Series]) -> bool:
    """Whether values span a factor of 300, or one line would flatten all others on a linear axis."""
    tops = [max(one.y) for one in series]
    values = sorted(y for one in series for y in one.y)
    most = values[len(values) // 10 :]
    return (most[0] > 0 and most[-1] > 300 * most[0]) or max(tops) > 10 * float(np.median(tops)) > 0


def _model(study: Study, words: tuple[Word, ...]) -> str:
    keys = [axis.key for axis in study.training_axes]
    return Setting(dict(zip(keys, words, strict=True)), ()).label(study.training_axes) or "all runs"


def _nfe(setting: Setting) -> float | None:
    return setting.mean("nfe")


def _seconds(setting: Setting) -> float | None:
    seconds, n = setting.mean("sampling_seconds"), setting.mean("n")
    return seconds / n if seconds and n else None


def _number(word: Any) -> float:
    return float(word) if isinstance(word, int | float) else float("inf")
