"""Reports on runs: the summary, and the files report.html, report.md and report.csv."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from denoiselab.files import replacing
from denoiselab.overrides import key_of
from denoiselab.report import charts, comparing, tables
from denoiselab.report.charts import Chart, Series, Style
from denoiselab.report.curves import Styles, by_cost, by_log_snr, tradeoff
from denoiselab.report.effects import Effect, Interaction, effects, interactions
from denoiselab.report.pictures import Picture, pictures
from denoiselab.report.reading import Left, find, near
from denoiselab.report.study import Placed, Setting, Study
from denoiselab.report.words import Command, shown

ROWS = 25  # of the ranking chart and of the table of models by ways of sampling
COLUMNS = 12  # of that table


def make(given: Sequence[str], where: Mapping[str, Any] | None = None, title: str | None = None) -> "Report":
    """Build the report on the runs in these folders. Raises RunError, ConfigError or IncompatibleError."""
    found = find(given)
    if not found.rows:
        comparing.none_has_figures(found.left)
    rows = comparing.picked(found.rows, where or {})
    comparing.check(rows)
    kept, repeated = comparing.once(rows)
    return Report(Study(kept), found.left, repeated, title)


class Report:
    """A study with the text, tables and charts of its report."""

    def __init__(
        self, study: Study, missing: Sequence[Left] = (), repeated: Sequence[Left] = (), title: str | None = None
    ) -> None:
        self.study, self.left = study, [*missing, *repeated]
        self.title = title or self._title()
        self.provenance, self.warnings = comparing.provenance(study.rows), comparing.warnings(study.rows)
        if missing:
            self.warnings.append(
                f"{len(missing)} job{'s' * (len(missing) != 1)} left no figures; see what is left out."
            )
        self.effects = effects(study.settings, study.axes)
        self.interactions = interactions(study.settings, study.axes)
        self.figure = tables.name_of(study)

    def _title(self) -> str:
        keys = [axis.key for axis in self.study.axes]
        return " × ".join(keys) if keys else "One setting"

    @property
    def best(self) -> float:
        return self.study.ranking[0].setting.estimate.mean

    @cached_property
    def counts(self) -> str:
        """Numbers of runs, metrics, settings and seeds."""
        runs, seeds = len({row.run for row in self.study.rows if row.run}), self.study.seeds
        said = [f"{runs} run{'s' * (runs != 1)}"] if runs else []
        said.append(f"{len(self.study.rows)} set{'s' * (len(self.study.rows) != 1)} of figures")
        said.append(f"{len(self.study.settings)} setting{'s' * (len(self.study.settings) != 1)}")
        if seeds != [None]:
            said.append(f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}")
        return ", ".join(said)

    @cached_property
    def short(self) -> list[str]:
        """The main results in a few sentences."""
        first, *others = self.study.ranking
        estimate, floor = first.setting.estimate, first.setting.mean("floor")
        ends = f" (95%: {tables.interval(estimate)}, {estimate.over})" if estimate.low is not None else ""
        beside = f"; the floor, that of real test data, is {tables.figure(floor)}" if floor is not None else ""
        if floor is not None and self.study.unlike:
            beside += f" at n {self.study.unlike[1]}, not to be compared{_without_n(first.setting)}"
        words = first.setting.label(self.study.axes)
        said = [f"{f'Best: {words}, ' if others else ''}{self.figure} {tables.figure(estimate.mean)}{ends}{beside}."]
        alike = [placed.setting.label(self.study.axes) for placed in others if placed.alike]
        if alike:
            more = f" and {len(alike) - 4} more" if len(alike) > 5 else ""
            said.append(f"Not to be told from it at 95%: {'; '.join(alike[:4] if more else alike)}{more}.")
        elif others and all(placed.alike is False for placed in others):
            said.append("All others are behind it by more than chance, at 95% each.")
        strong = sorted((effect for effect in self.effects if effect.over), key=lambda effect: -effect.span)
        if len(strong) > 1:
            low, *_, high = sorted(strong[0].levels, key=lambda level: level.mean)
            said.append(
                f"What changes most: {strong[0].axis.key}, from {tables.figure(low.mean)} ({shown(low.value)}) to "
                f"{tables.figure(high.mean)} ({shown(high.value)}), means over the same cells."
            )
        for one in self.interactions[:1]:
            said.append(f"What {one.second.key} does depends on {one.first.key}.")
        return said

    def write(self, folder: Path) -> list[Path]:
        """Write report.html, report.md and report.csv, each atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = {"html": self.page, "md": self.markdown, "csv": lambda: tables.long_form(self.study)}
        written = []
        for kind, text in texts.items():
            path = folder / f"report.{kind}"
            with replacing(path) as temporary:
                temporary.write_text(text(), encoding="utf-8")
            written.append(path)
        return written

    def page(self) -> str:
        """Render a self-contained HTML page that works offline."""
        return self._rendered("report.html")

    def markdown(self) -> str:
        return self._rendered("report.md")

    def _rendered(self, template: str) -> str:
        environment = Environment(
            loader=PackageLoader("denoiselab.report"),
            autoescape=template.endswith("html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            report=self, infinity=math.inf, now=datetime.now().strftime("%Y-%m-%d %H:%M"), shown=shown
        )
        environment.globals.update(levels=tables.levels, markdown_table=tables.markdown_table, near=near)
        return environment.get_template(template).render()

    @cached_property
    def ranking(self) -> tables.Table:
        return tables.ranking(self.study)

    def charts(self) -> dict[str, list[tuple[Chart, Markup]]]:
        """The charts of each section, as data and SVG."""
        study, styles = self.study, Styles(self.study)
        found = {"ranking": [_placed(study, styles)] if len(study.settings) > 1 else []}
        found["effects"] = [_means(effect, self.figure) for effect in self.effects]
        widths = {"ranking": 7.4, "effects": 5.0}
        drawn = {name: [(c, Markup(charts.dots(c, widths[name]))) for c in made] for name, made in found.items()}
        guided = tradeoff(study, styles)
        more = {"cost": by_cost(study, styles), "guidance": [guided] if guided else []}
        more["log_snr"] = by_log_snr(study, styles)
        return drawn | {name: [(chart, Markup(charts.lines(chart))) for chart in made] for name, made in more.items()}

    def pictures(self) -> list[Picture]:
        return pictures(self.study)

    def heat(self, one: Interaction) -> list[tuple[str, list[tuple[str, float]]]]:
        """Rows of a two-way table: per value its cells, as text and as a share between minimum and maximum."""
        low, high = float(one.means.min()), float(one.means.max())
        return [
            (shown(value), [(tables.figure(float(x)), (float(x) - low) / (high - low or 1)) for x in row])
            for value, row in zip(one.first.values, one.means, strict=True)
        ]

    @cached_property
    def crossed(self) -> list[tuple[str, list[tuple[str, float]]]]:
        """Models by ways of sampling: a header row, then rows as in `heat`, on a log scale if all means exceed 0."""
        trained, sampled = self.study.training_axes, self.study.sampling_axes
        ways = sorted(
            {tuple(s.words[axis.key] for axis in sampled): s.label(sampled) for s in self.study.settings}.items(),
            key=lambda way: [axis.values.index(word) for axis, word in zip(sampled, way[0], strict=True)],
        )
        models = self.study.trainings()
        if not (1 < len(models) <= ROWS and 1 < len(ways) <= COLUMNS) or len(self.study.settings) * 2 < (
            len(models) * len(ways)
        ):
            return []
        means = [s.estimate.mean for s in self.study.settings]
        scale = math.log if min(means) > 0 else float
        low, high = scale(min(means)), scale(max(means))
        rows: list[tuple[str, list[tuple[str, float]]]] = [("model", [(label, 0.0) for _, label in ways])]
        for settings in models.values():
            here = {tuple(s.words[axis.key] for axis in sampled): s.estimate.mean for s in settings}
            shares = {way: (scale(mean) - low) / (high - low or 1) for way, mean in here.items()}
            cells = [(tables.figure(here.get(way)), shares.get(way, 0.0)) for way, _ in ways]
            rows.append((settings[0].label(trained), cells))
        return rows

    def heat_texts(self, one: Interaction) -> list[list[str]]:
        return [[value, *(text for text, _ in cells)] for value, cells in self.heat(one)]

    @property
    def ranking_texts(self) -> list[list[str]]:
        return [[cell.text for cell in row] for row in self.ranking.rows]

    @property
    def ranking_said(self) -> str:
        """Explain how settings are ranked."""
        over = {placed.setting.estimate.over for placed in self.study.ranking}
        ways = []
        if any(one.endswith("seeds") for one in over):
            ways.append("over the seeds of training (Student's t)")
        if "bootstrap" in over:
            ways.append("of one seed over its samples (bootstrap), which says nothing of another training")
        said = f"{self.figure} of each setting, lower is better."
        said += f" Intervals are of 95%, {'; '.join(ways)}." if ways else " There is one seed of each, and no interval."
        if any(placed.behind for placed in self.study.ranking):
            said += (
                " Settings share their seeds, and so their noise: they are compared with the best by their differences "
                "seed by seed, which tell more than their intervals do."
            )
        if any(placed.alike for placed in self.study.ranking[1:]):
            said += " ≈ marks those that cannot be told from the best."
        return said

    @property
    def effects_said(self) -> str:
        """Explain the means of the axes."""
        return (
            f"Mean {self.figure} of each value of an axis, over the same cells of all other axes and the same seeds: "
            "like is compared with like, and what is common to all values is not in the intervals."
        ) + self._alone()

    def _alone(self) -> str:
        there = {effect.axis.key for effect in self.effects}
        alone = [axis.key for axis in self.study.axes if axis.key not in there]
        return f" No two values of {', '.join(alone)} share a cell, so that there is nothing to compare." * bool(alone)

    def about_both(self, one: Interaction) -> str:
        """Explain an interaction."""
        first, second, both = map(tables.figure, one.sizes)
        chance = " (one seed: chance is not ruled out)"
        if not math.isnan(one.p):
            chance = f" (by chance: p {'< 0.001' if one.p < 0.001 else f'= {one.p:.2g}'})"
        return (
            f"Mean {self.figure}. What {one.second.key} does depends on {one.first.key}: root mean squares are {first} "
            f"for {one.first.key}, {second} for {one.second.key} and {both} for what only the pair explains{chance}. "
            "Their own means hide this."
        )

    def about(self, effect: Effect) -> str:
        """Explain the basis of an axis's means."""
        said = f"Each mean is over {effect.cells} cell{'s' * (effect.cells != 1)} of the other axes"
        said += f" and {effect.seeds} seeds" if effect.seeds > 1 else ""
        said += ", the same for all values."
        if not effect.balanced:
            said += f" The design is not balanced: {effect.of - effect.cells} of {effect.of} cells are not complete"
            values = ", ".join(map(shown, effect.left_out))
            said += f", and {values} left out, in too few of them." if values else "."
        if effect.over:
            said += f" Intervals are over {effect.over}, of the difference to the mean of the axis."
        else:
            said += " One seed and one cell leave no interval."
        if effect.axis.follows:
            said += f" {', '.join(effect.axis.follows)} follow{'s' * (len(effect.axis.follows) == 1)} it."
        return said

    def pictures_said(self, shown: Sequence[Picture]) -> str:
        """Explain which grids are shown."""
        of = len(self.study.ranking)
        some = (
            f"{len(shown)} of {of} settings by rank, the best and the worst among them"
            if len(shown) < of
            else "All settings"
        )
        seeds = {one.seed for one in shown}
        same = (
            f"; all of samples' seed {seeds.pop()}, so that the same place is the same noise" if len(seeds) == 1 else ""
        )
        return f"{some}{same}."

    def origin(self, setting: Setting) -> str:
        """Folders, seeds and code versions of a setting's metrics."""
        return "; ".join(
            f"{row.name}: {self.figure} {tables.figure(row.headline)}"
            + (f", seed {row.seed}" if row.seed is not None else "")
            + (f", {row.figures['code']}" if "code" in row.figures else "")
            for row in setting.rows
        )

    def commands(self, setting: Setting) -> list[str]:
        return [str(command) for command in reproduced(setting)]

    def label(self, placed: Placed) -> str:
        return placed.setting.label(self.study.axes) or "all runs"


def reproduced(setting: Setting) -> list[Command]:
    """Commands that reproduce a setting's metrics; trainings that differ only by seed become one sweep."""
    trained: dict[tuple[str, ...], list[str]] = {}
    others: dict[Command, None] = {}
    for command in dict.fromkeys(command for row in setting.rows for command in row.commands):
        seeds = [word.partition("=")[2] for word in command.words if key_of(word) == "seed"]
        if command.program == "train.py" and len(seeds) == 1:
            rest = tuple("seed={}" if key_of(word) == "seed" else word for word in command.words)
            trained.setdefault(rest, []).append(seeds[0])
        else:
            others[command] = None
    merged = []
    for rest, seeds in trained.items():
        words = tuple(f"seed={','.join(seeds)}" if word == "seed={}" else word for word in rest)
        if len(seeds) > 1:
            words = ("-m", *(word for word in words if word != "hydra.mode=RUN"))
        merged.append(Command("train.py", words))
    first = [command for command in others if command.program == "train.py"]
    return [*merged, *first, *(command for command in others if command not in first)]


def _without_n(setting: Setting) -> str:
    """Show FID∞ and its floor, which are comparable at any n, if present."""
    ends = [setting.mean(key) for key in ("fid_infinity", "floor.fid_infinity")]
    return "" if None in ends else f" (FID∞, for any n: {tables.figure(ends[0])} and {tables.figure(ends[1])})"


def _placed(study: Study, styles: Styles) -> Chart:
    """Chart of the ranking, coloured by model."""
    series, name = [], tables.name_of(study)
    for placed in study.ranking[:ROWS]:
        words = tuple(placed.setting.words[axis.key] for axis in study.training_axes)
        estimate = placed.setting.estimate
        mark = " ≈" if placed.alike and placed.rank > 1 else ""
        label = f"{placed.setting.label(study.axes)}{mark}"
        series.append(Series(label, styles.of_model(words), [estimate.mean], [0], [estimate.low], [estimate.high]))
    values = [one.x[0] for one in series]
    floor = study.drawn_floor
    wide = min(values) > 0 and max(values) > 10 * min(values)
    shown_ones = "each setting" if len(series) == len(study.settings) else f"the first {ROWS} of {len(study.settings)}"
    said = f"{name} of {shown_ones} with its 95% interval, best at the top" + ("; dotted: the floor" if floor else "")
    return Chart("ranking", name, "", series, said, log_x=wide, floor=floor)


def _means(effect: Effect, name: str) -> Chart:
    series = [
        Series(
            shown(level.value),
            Style(0),
            [level.mean],
            [0],
            [None if level.half is None else level.mean - level.half],
            [None if level.half is None else level.mean + level.half],
        )
        for level in effect.levels
    ]
    key = effect.axis.key
    return Chart(
        f"effect-{key.replace('.', '-')}", name, "", series, f"Mean {name} for each value of {key}, with 95% intervals"
    )
