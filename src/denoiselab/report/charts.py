"""Line, dot and interval charts as inline SVG, with selectable text and the page's colours.

Colours are CSS variables (--ink, --muted, --line, --s0 ... --s7), so that a page can define a dark mode. A series keeps
the colour, marker and dashes of its Style in all charts.
"""

import math
import re
from collections.abc import Sequence
from io import StringIO
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = 8
_INK, _MUTED, _LINE = "#0c0c0c", "#0d0d0d", "#0e0e0e"  # placeholders for --ink, --muted and --line in the SVG
_MARKERS, _DASHES = "osD^vPX*", ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "denoiselab",
    "text.parse_math": False,  # show a $ in a name as it is
    "font.size": 9.5,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "text.color": _INK,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


class Style(NamedTuple):
    """Look of a series: indices of its page colour, marker and dashes."""

    colour: int = 0
    marker: int = 0
    dash: int = 0

    @property
    def drawn(self) -> str:
        return f"#0a0b{self.colour % COLOURS:02x}"

    @property
    def line(self) -> dict[str, Any]:
        return {"color": self.drawn, "linestyle": _DASHES[self.dash % len(_DASHES)], "linewidth": 1.6}


class Series(NamedTuple):
    """Named points; low and high are the ends of their intervals, if any."""

    name: str
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    notes: Sequence[str] = ()  # labels of the points


class Chart(NamedTuple):
    """Contents of a chart; `said` describes it in text, also for screen readers."""

    name: str
    x: str
    y: str
    series: Sequence[Series]
    said: str
    log_x: bool = False
    log_y: bool = False
    floor: float | None = None
    points: bool = True  # draw markers
    ticks: Sequence[float] = ()


def lines(chart: Chart) -> str:
    """Draw each series as a line through its points."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(7.4, 3.9)
        for series in chart.series:
            marker = {"marker": _MARKERS[series.style.marker % len(_MARKERS)], "markersize": 5} if chart.points else {}
            drawn = [math.nan if chart.log_y and value <= 0 else value for value in series.y]
            axes.plot(series.x, drawn, label=_named(series.name), **series.style.line, **marker)
            for x, y, low, high in zip(series.x, series.y, series.low, series.high, strict=False):
                if low is not None and high is not None:
                    axes.vlines(x, _above(low, y, chart.log_y), high, color=series.style.drawn, lw=1.1)
            for x, y, note in zip(series.x, series.y, series.notes, strict=False):
                axes.annotate(note, (x, y), (4, 4), textcoords="offset points", fontsize=7.5, color=_MUTED)
        if chart.floor is not None:
            _floor(axes.axhline, chart.floor)
            axes.annotate(
                f"floor {chart.floor:.2g}", (1, chart.floor), (-2, 3), ha="right", fontsize=8, color=_MUTED,
                xycoords=("axes fraction", "data"), textcoords="offset points",
            )  # fmt: skip
        _scale(axes.xaxis, chart.log_x, chart.ticks)
        if chart.log_y:
            axes.set_ylim(*_limits([y for series in chart.series for y in series.y], chart.floor, 1e-5))
        _scale(axes.yaxis, chart.log_y)
        axes.set(xlabel=chart.x, ylabel=chart.y)
        axes.grid(axis="y")
        columns = 1 if len(chart.series) <= 12 else 2
        figure.legend(loc="outside right upper", ncols=columns, handlelength=2.6, borderaxespad=0.2)
        return _svg(figure, chart.name, chart.said)


def dots(chart: Chart, width: float = 7.4) -> str:
    """Draw one row per series, a point with its interval, from top to bottom; `width` in inches."""
    with matplotlib.rc_context(_STYLE):
        rows = len(chart.series)
        figure, axes = _canvas(width, 0.75 + 0.25 * rows)
        for row, series in enumerate(chart.series):
            for x, low, high in zip(series.x, series.low, series.high, strict=True):
                if low is not None and high is not None:
                    axes.hlines(row, _above(low, x, chart.log_x), high, color=series.style.drawn, lw=2)
                axes.plot(x, row, "o", color=series.style.drawn, markersize=5.5)
        if chart.floor is not None:
            _floor(axes.axvline, chart.floor)
            axes.annotate(
                f"floor {chart.floor:.2g}", (chart.floor, 0), (3, 3), fontsize=8, color=_MUTED,
                xycoords=("data", "axes fraction"), textcoords="offset points",
            )  # fmt: skip
        axes.set_yticks(range(rows), [series.name for series in chart.series], color=_INK)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        if chart.log_x:
            axes.set_xlim(*_limits([x for series in chart.series for x in series.x], chart.floor))
        _scale(axes.xaxis, chart.log_x, chart.ticks)
        axes.set(xlabel=chart.x)
        axes.grid(axis="x")
        return _svg(figure, chart.name, chart.said)


def _canvas(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _named(name: str) -> str:
    """Legend label; a zero-width space protects a leading _, which matplotlib would hide."""
    return f"\u200b{name}" if name.startswith("_") else name


def _above(low: float, point: float, log: bool) -> float:
    """Lower end of an interval, cut off at the edge of a logarithmic axis if it reaches 0."""
    return max(low, 1e-9 * point) if log else low


def _limits(values: Sequence[float], floor: float | None, least: float = 0.0) -> tuple[float, float]:
    """Limits of a logarithmic axis, from the points alone; ignores values below `least` times the largest."""
    shown = [value for value in (*values, *(() if floor is None else (floor,))) if value > 0]
    low, high = max(min(shown), least * max(shown)), max(shown)
    margin = max((high / low) ** 0.06, 1.15)
    return low / margin, high * margin


def _floor(draw: Any, at: float) -> None:
    draw(at, color=_MUTED, linestyle=(0, (2, 2)), linewidth=1)


def _scale(axis: Any, log: bool, ticks: Sequence[float] = ()) -> None:
    """Set plain numbers on a logarithmic axis, at the ticks given if there are any."""
    if not log:
        return
    axis._set_axes_scale("log")
    if ticks:
        kept: list[float] = []
        for tick in sorted(ticks):
            if not kept or tick > 1.15 * kept[-1]:  # else labels would overlap
                kept.append(tick)
        axis.set_ticks(kept, [f"{tick:.4g}" for tick in kept])
    else:
        low, high = axis.get_view_interval()
        steps = (1.0,) if high / low > 1000 else (1.0, 2.0, 5.0) if high / low > 10 else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
        axis.set_major_locator(LogLocator(10, steps))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


def _number(value: float) -> str:
    """Format a tick: 0.01, 500, 10⁻⁵."""
    if 1e-4 < value < 1e5:
        return f"{value:.4g}"
    power = math.floor(math.log10(value) + 1e-9)
    times = "" if abs(value / 10**power - 1) < 1e-9 else f"{value / 10**power:.3g}·"
    return f"{times}10{str(power).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _svg(figure: Figure, name: str, said: str) -> str:
    """Convert to one <svg> with unique ids and no size, URLs, fonts or colours of its own."""
    written = StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    title = f'{name}-said">{_text(said)}</title>'
    svg = f'<svg viewBox="{box[1]}" role="img" aria-labelledby="{name}-said">' + svg[svg.index(">") + 1 :]
    svg = svg.replace("xlink:href", "href")
    svg = svg.replace(' id="', f' id="{name}-')
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 inherit", svg)
    svg = re.sub(r"#0a0b([0-9a-f]{2})", lambda found: f"var(--s{int(found[1], 16)})", svg)
    for sign, variable in ((_INK, "ink"), (_MUTED, "muted"), (_LINE, "line")):
        svg = svg.replace(sign, f"var(--{variable})")
    head, body = svg.split(">", 1)
    return f'{head}><title id="{title}{body}'


def _text(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
