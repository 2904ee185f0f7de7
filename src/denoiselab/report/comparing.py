"""Comparability of metrics: same data set and split, extractor and number of samples.

FID depends on n, features of two extractors are unrelated, and a model given parts of the test images has an easier
task; such mixtures are refused, and `where` selects one of them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from denoiselab.axes import within
from denoiselab.errors import ConfigError, IncompatibleError, RunError
from denoiselab.report.reading import Left, Row, near
from denoiselab.report.words import shown

# Keys that must be equal, most telling first; older metrics that lack one are accepted.
KEYS = (
    *("headline", "data", "data_fingerprint", "split"),
    *("given", "extractor", "extractor_weights", "resize", "n", "floor_n"),
)
# Further keys of some metrics: their settings and the number of kept images. FID has none; random seeds do not count.
_OWN = {
    "bits_per_dim": ("likelihood",),
    "nats_per_dim": ("likelihood",),
    "sliced_wasserstein": ("directions",),
    "kid": ("keep", "figures.kid"),
    "mmd": ("mmd_sigma", "keep", "figures.mmd"),
    "cmmd": ("keep", "figures.cmmd"),
    "inception_score": ("figures.inception_score",),
    **dict.fromkeys(("precision", "recall"), ("keep", "figures.precision_recall")),
    **dict.fromkeys(("density", "coverage"), ("keep", "figures.density_coverage")),
    "memorised": ("keep", "figures.memorisation"),
}
_SETTINGS = ("likelihood", "mmd_sigma", "directions", "keep", "figures")
PICKED = (*KEYS, *_SETTINGS[:-1])  # keys that `where` accepts: conf/report.yaml


def keys(rows: Sequence[Row]) -> list[str]:
    """Return the keys that must be equal for the rows' headline metrics."""
    own = [key for headline in sorted({row.figures["headline"] for row in rows}) for key in _OWN.get(headline, ())]
    more = dict.fromkeys(key for row in rows for key in row.figures if _setting(key) and within(key, own))
    return [*KEYS, *more]


def _setting(key: str) -> bool:
    return within(key, _SETTINGS) and not key.endswith((".seed", "_error"))


def none_has_figures(left: Sequence[Left]) -> NoReturn:
    """Raise RunError with the reason why there is nothing to compare."""
    first = f"{near(left[0].folder)}: {left[0].reason}"
    raise RunError(f"no run there has figures ({first}); take runs that have finished, of metrics=fid")


def picked(rows: Sequence[Row], where: Mapping[str, Any]) -> list[Row]:
    """Select the rows whose metrics have these values. Raises ConfigError if none has."""
    kept = list(rows)
    for key, value in where.items():
        if value is not None:
            there = Counter(shown(row.figures.get(key)) for row in kept)
            kept = [row for row in kept if shown(row.figures.get(key)) == shown(value)]
            if not kept:
                raise ConfigError(
                    f"where.{key}={shown(value)} is none of these figures'; there is {key}="
                    + " and ".join(f"{word} in {count}" for word, count in there.items())
                )
    return kept


def check(rows: Sequence[Row]) -> None:
    """Raise IncompatibleError for metrics that cannot be compared."""
    differing = {}
    for key in keys(rows):
        groups: dict[str, list[Row]] = {}
        for row in rows:
            if key in row.figures:
                groups.setdefault(shown(row.figures[key]), []).append(row)
        if len(groups) > 1:
            differing[key] = groups
    if differing:
        key, groups = next(iter(differing.items()))
        of = "; ".join(f"{key}={word} of {len(rows)}, such as {rows[0].name}" for word, rows in groups.items())
        others = f" (and so do {', '.join(list(differing)[1:])})" if len(differing) > 1 else ""
        take = " or ".join(f"where.{key}={word}" for word in groups)
        take = take if key in PICKED else "the folders of one of them, run=[A,B]"
        raise IncompatibleError(f"these figures cannot be compared, as they differ in {key}{others}: {of}; take {take}")


def once(rows: Sequence[Row]) -> tuple[list[Row], list[Left]]:
    """Drop duplicates: of rows with equal options, seeds and settings, keep the fullest of the newest code.

    Settings are compared where both rows have them: metrics with and without a likelihood may come from one evaluation,
    those with two different likelihoods do not.
    """
    found: dict[Any, list[Row]] = {}
    for row in sorted(rows, key=lambda row: -row.written):
        found.setdefault(_same(row), []).append(row)
    instead: dict[Path, Row] = {}
    for alike in found.values():
        sources = list(dict.fromkeys(row.figures.get("source") for row in alike))  # newest first
        kept: list[Row] = []
        for row in sorted(alike, key=lambda row: (sources.index(row.figures.get("source")), -len(row.figures))):
            other = next((other for other in kept if _agree(row, other)), None)
            if other is None:
                kept.append(row)
            else:
                instead[row.folder] = other
    said = "the same as {}, which is counted: equal words, settings, seed and seed of the samples"
    left = [Left(row.folder, "", said.format(instead[row.folder].name)) for row in rows if row.folder in instead]
    return [row for row in rows if row.folder not in instead], left


def _same(row: Row) -> Any:
    return tuple(sorted(row.words.items())), row.seed, row.figures.get("sample_seed")


def _agree(one: Row, other: Row) -> bool:
    both = [key for key in one.figures if key in other.figures and _setting(key)]
    return all(shown(one.figures[key]) == shown(other.figures[key]) for key in both)


def provenance(rows: Sequence[Row]) -> dict[str, str]:
    """Describe how the metrics were obtained: common values, and counts of differing ones."""
    told = {
        "figure": _values(rows, "headline"),
        "data": _values(rows, "data", "data_fingerprint"),
        "split": _values(rows, "split"),
        "given of the test images": _values(rows, "given"),
        "extractor": _values(rows, "extractor"),
        "its weights": _values(rows, "extractor_weights"),
        "resize": _values(rows, "resize"),
        "samples": _values(rows, "n"),
        "floor": ", ".join(_spread(rows)),
        "seed of the samples": "that of the training" if _follows(rows) else _values(rows, "sample_seed"),
        "weights": _values(rows, "ema"),
        "steps of training": _values(rows, "step"),
        "code": _values(rows, "code"),
        "likelihood": _values(rows, "likelihood", "likelihood.n"),
    }
    return {key: value for key, value in told.items() if value}


def _values(rows: Sequence[Row], key: str, beside: str = "") -> str:
    pairs = (
        shown(row.figures[key])
        + (f" ({beside.rpartition('.')[2]} {row.figures[beside]})" if beside in row.figures else "")
        for row in rows
        if key in row.figures
    )
    counts = Counter(pairs)
    return next(iter(counts), "") if len(counts) == 1 else ", ".join(f"{word} in {n}" for word, n in counts.items())


def _spread(rows: Sequence[Row]) -> list[str]:
    return sorted({f"{row.figures['floor']:.3g} ({_floor_n(row)})" for row in rows if "floor" in row.figures})


def _floor_n(row: Row) -> str:
    n, of = row.figures.get("n"), row.figures.get("floor_n", "?")
    return f"at n {of}, not to be compared" if n is not None and of not in (n, "?") else f"n {of}"


def _follows(rows: Sequence[Row]) -> bool:
    """Whether samples use the seed of their training, so that settings share samples' seeds."""
    return len({row.figures.get("sample_seed") for row in rows}) > 1 and all(
        row.seed is not None and row.figures.get("sample_seed") == row.seed for row in rows
    )


def warnings(rows: Sequence[Row]) -> list[str]:
    """Warnings that do not prevent a comparison."""
    said = []
    codes = {str(row.figures["code"]) for row in rows if "code" in row.figures}
    sources = {row.figures["source"] for row in rows if "source" in row.figures}
    if len(sources) > 1 or (not sources and len(codes) > 1):
        said.append(
            f"The figures are of {max(len(codes), len(sources))} versions of the code: {_values(rows, 'code')}."
        )
    if any(code.endswith("-dirty") for code in codes):
        said.append("Some figures are of code with changes that were not committed (-dirty).")
    seeds: dict[Any, set[Any]] = {}
    for row in rows:
        seeds.setdefault(row.seed, set()).add(row.figures.get("sample_seed"))
    if any(len(drawn) > 1 for drawn in seeds.values()):
        said.append(
            f"The samples are of several seeds ({_values(rows, 'sample_seed')}), so that not all settings start from "
            "the same noise; of several for one training the mean counts."
        )
    said += _unsaid(rows)
    for key in ("likelihood", "likelihood.n"):
        if len({row.figures[key] for row in rows if key in row.figures}) > 1:
            said.append(f"Bits/dim are not all of one {key}: {_values(rows, key)}.")
    n = min((row.figures["n"] for row in rows if "n" in row.figures), default=None)
    if n is not None and n < 1000 and all("fid" in row.figures for row in rows):
        said.append(
            f"{n} samples are few: FID is too high by about its floor, and differences of that size are those of "
            "the draw. More tell more (evaluate.py n=2000), but have a floor of their n only where the test set is as "
            "large."
        )
    said += _without_floor(rows)
    return said


def _without_floor(rows: Sequence[Row]) -> Iterable[str]:
    """Warn if the floor has another n than the metrics, as with a small test set."""
    pairs = {(row.figures.get("n"), row.figures.get("floor_n")) for row in rows if "floor" in row.figures}
    for n, of in sorted(pair for pair in pairs if None not in pair and pair[0] != pair[1]):
        said = f"The figures are of n {n} and their floor is of n {of}, not to be compared: both fall as n grows"
        if all("fid_infinity" in row.figures and "floor.fid_infinity" in row.figures for row in rows):
            said += "; FID∞ and the floor of FID∞ do not depend on n"
        yield f"{said}."


def _unsaid(rows: Sequence[Row]) -> Iterable[str]:
    some = [key for key in keys(rows) if 0 < sum(key in row.figures for row in rows) < len(rows)]
    if some:
        yield f"Some figures do not say their {', '.join(some)}, and are taken to agree with the others."
