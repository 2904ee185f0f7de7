"""Table of a sweep: a row per job with metrics, and columns for the differing overrides.

Reads only the folders (.hydra, metrics.json). Metrics of different data, extractors or n are not comparable, and get
separate tables.
"""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from denoiselab.axes import Role, role
from denoiselab.files import replacing
from denoiselab.overrides import pairs
from denoiselab.report.comparing import KEYS

_FIGURES = {"floor": "floor", "n": "n", "nfe": "NFE", "bits_per_dim": "bits/dim", "nats_per_dim": "nats/dim"}


@dataclass(frozen=True)
class Row:
    folder: Path
    words: dict[str, str]
    figures: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Row":
        """Read a training's overrides, or an evaluation's and its run's; the samples' seed becomes sample_seed."""
        figures = json.loads((folder / "metrics.json").read_text())
        words = _words(folder)
        if "identity" in figures:
            words |= {"sample_seed": str(figures["sample_seed"])} if "sample_seed" in figures else {}
            words.pop("seed", None)
            chosen = {key.partition(".")[0] for key in words}
            run = _words(Path(figures["run"])) if "run" in figures else {}
            chosen |= {"metrics", "extractor", "likelihood", "callbacks"}
            trained = {key: word for key, word in run.items() if key.partition(".")[0] not in chosen}
            words = ({"run": figures["run"]} if "run" in figures else {}) | trained | words
        return cls(folder, words, figures)

    def told(self, key: str) -> str:
        """Value of an override, or of a metric or fact of that name."""
        return self.words.get(key, str(self.figures.get(key, "")))


def _words(folder: Path) -> dict[str, str]:
    path = folder / ".hydra" / "overrides.yaml"
    words = map(str, OmegaConf.load(path)) if path.exists() else ()
    return {key: value for key, value in pairs(words).items() if _defines(key)}


def _defines(key: str) -> bool:
    """Whether an override defines the job, unlike its device, its name, or n, which has its own column."""
    return key not in ("n", "metrics.n") and role(key) not in (Role.RUNNING, Role.NAMING)


def side_by_side(jobs: Iterable[Path], place: Path) -> list[str]:
    """Write table.md and table.csv to `place` and return the Markdown lines; empty for a single job."""
    rows = [Row.read(job) for job in jobs if (job / "metrics.json").exists()]
    if len(rows) < 2:
        return []
    tables: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        tables.setdefault(tuple(str(row.figures.get(key, "")) for key in KEYS), []).append(row)
    keys = dict.fromkeys(key for row in rows for key in row.words)
    differing = [key for key in keys if len({row.told(key) for row in rows}) > 1]
    lines: list[str] = []
    if len(tables) > 1:
        lines = [
            f"{len(tables)} tables, whose figures cannot be compared with one another: {_apart(KEYS, list(tables))}",
            "",
        ]
    for table in tables.values():
        lines += [*_markdown(table, differing), ""]
    place.mkdir(parents=True, exist_ok=True)
    with replacing(place / "table.md") as temporary:
        temporary.write_text("\n".join(lines))
    with replacing(place / "table.csv") as temporary:
        _write_csv(rows, differing, temporary)
    return [*lines[:-1], *(os.path.relpath(place / f"table.{kind}") for kind in ("md", "csv"))]


def _apart(names: Sequence[str], tables: list[tuple[str, ...]]) -> str:
    """Keys in which the tables differ."""
    return ", ".join(key for key, values in zip(names, zip(*tables, strict=True), strict=True) if len(set(values)) > 1)


def _markdown(rows: list[Row], keys: list[str]) -> list[str]:
    headline, first = rows[0].figures.get("headline", ""), rows[0].figures
    shown = {key: name for key, name in _FIGURES.items() if any(key in row.figures for row in rows)}
    shown.pop(headline, None)
    interval = headline == "fid" and all("fid_low" in row.figures for row in rows)
    head = [*keys, headline, *(["95%"] if interval else []), *shown.values(), "seconds"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        figures = [_short(row.figures.get(headline))]
        if interval:
            figures.append(f"{_short(row.figures['fid_low'])} to {_short(row.figures['fid_high'])}")
        figures += [_short(row.figures.get(key)) for key in shown]
        cells = [*(row.told(key).replace("|", "\\|") for key in keys), *figures, _time(_seconds(row))]
        lines.append(f"| {' | '.join(cells)} |")
    said = [f"data {first['data']}"] if "data" in first else []
    said += [f"seen by {first['extractor']}"] if "extractor" in first else []
    seeds = {row.figures.get("sample_seed") for row in rows}
    if len(seeds) == 1 and None not in seeds:
        noise = f"samples of seed {first['sample_seed']}: sample i starts from the same noise in all rows"
        said.append(noise)
    unlike = {row.figures["floor_n"] for row in rows if row.figures.get("floor_n") not in (None, row.figures.get("n"))}
    if unlike:
        said.append(f"the floor is at n {', '.join(map(str, sorted(unlike)))}, not to be compared")
    return [*lines, "", f"{'; '.join(said)}."] if said else lines


def _write_csv(rows: list[Row], keys: list[str], path: Path) -> None:
    more = ("fid_low", "fid_high", "bits_per_dim_error", "extractor", "data", "sample_seed", "identity")
    names = ["headline", "figure", *_FIGURES, *more]
    names = [name for name in names if name not in keys]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*keys, *names, "seconds", "folder"])
        for row in rows:
            facts = row.figures | {"figure": row.figures.get(row.figures.get("headline", ""), "")}
            found = [facts.get(name, "") for name in names]
            writer.writerow([*map(row.told, keys), *found, _seconds(row), os.path.relpath(row.folder)])


def _seconds(row: Row) -> float:
    """Duration of the training or the evaluation."""
    return float(row.figures.get("train_seconds", row.figures.get("seconds", 0)))


def _short(figure: Any) -> str:
    return f"{figure:.4g}" if isinstance(figure, float) else "" if figure is None else str(figure)


def _time(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}"
