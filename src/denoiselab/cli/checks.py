"""What a configuration must be, checked without torch so that a slip is answered at once.

Three kinds: keys and types, against the configuration that the chosen options give by themselves; the limits of single
values; and rules between parts. A rule only says early what the parts themselves refuse when they are built.
"""

import difflib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from denoiselab.errors import ConfigError, IncompatibleError


class Limit(NamedTuple):
    """A sensible value: a number in [low, high], or one of `words`; null too where the default is null."""

    low: float = -math.inf
    high: float = math.inf
    words: tuple[Any, ...] = ()
    above: bool = False  # low itself is not allowed
    null: bool = False  # null has a meaning though the default is another

    def allows(self, value: Any) -> bool:
        if self.words:
            return value in self.words
        return isinstance(value, int | float) and math.isfinite(value) and self._inside(value)

    def _inside(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        if self.words:
            text = " or ".join(map(str, self.words))
        elif math.isinf(self.high):
            text = "a number" if math.isinf(self.low) else f"{'above' if self.above else 'at least'} {self.low:g}"
        else:
            text = f"{'above' if self.above else 'from'} {self.low:g} to {self.high:g}"
        return f"{text}, or null" if self.null else text


COUNT, NATURAL, POSITIVE, SHARE = Limit(1), Limit(0), Limit(0, above=True), Limit(0, 1)
COUNT_OR_NULL = Limit(1, null=True)

# What Lightning judges itself, in more forms than a type can tell.
FREE = ("trainer.devices", "trainer.precision")

LIMITS = {
    "seed": NATURAL,
    "batch_size": COUNT,
    "num_workers": NATURAL,
    "n": COUNT,
    "checkpoint": Limit(words=("last", "best")),
    "device": Limit(words=("auto", "cpu", "cuda", "mps")),
    "schedule.T": COUNT_OR_NULL,
    "schedule.beta_min": POSITIVE,
    "schedule.beta_max": POSITIVE,
    "schedule.s": POSITIVE,
    "schedule.log_snr_min": Limit(null=True),
    "loss.weighting.gamma": POSITIVE,
    "time_sampling.T": COUNT,
    "spacing.T": COUNT_OR_NULL,
    "spacing.t_min": Limit(0, 0.5, above=True),
    "sampler.steps": COUNT,
    "sampler.eta": SHARE,
    "sampler.s_churn": NATURAL,
    "sampler.s_min": NATURAL,
    "sampler.s_max": NATURAL,
    "sampler.s_noise": POSITIVE,
    "sampler.variance": Limit(words=("small", "large")),
    "threshold.low": Limit(),
    "threshold.high": Limit(),
    "guidance.scale": Limit(),
    "conditioning.dim": COUNT,
    "conditioning.drop": SHARE,
    "backbone.channels": COUNT,
    "backbone.blocks": COUNT,
    "backbone.multipliers": COUNT,
    "backbone.attention": COUNT,
    "backbone.heads": COUNT,
    "backbone.dropout": Limit(0, 0.99),
    "backbone.patch": COUNT,
    "backbone.width": COUNT,
    "backbone.depth": COUNT,
    "backbone.mlp_ratio": COUNT,
    "data.size": COUNT,
    "data.channels": Limit(words=(1, 3)),
    "data.test_fraction": Limit(0.001, 0.999),
    "data.memory_mb": NATURAL,
    "optimizer.lr": POSITIVE,
    "optimizer.betas": Limit(0, 0.99999),
    "optimizer.weight_decay": NATURAL,
    "optimizer.warmup_steps": NATURAL,
    "optimizer.decay": Limit(words=("cosine", "constant")),
    "ema.decay": Limit(0, 0.999999),
    "trainer.max_steps": COUNT,
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.gradient_clip_val": Limit(0, above=True, null=True),
    "trainer.val_check_interval": COUNT,
    "trainer.log_every_n_steps": COUNT,
    "logger.mode": Limit(words=("offline", "online")),
    "metrics.every": COUNT_OR_NULL,
    "metrics.n": Limit(2),
    "metrics.seed": NATURAL,
    "metrics.batch_size": COUNT,
    "callbacks.pace.every": COUNT,
    "callbacks.samples.n": COUNT,
    "callbacks.samples.columns": COUNT,
    "callbacks.samples.every": COUNT_OR_NULL,
    "callbacks.samples.seed": NATURAL,
    "callbacks.samples.batch_size": COUNT,
    "callbacks.denoising.n": COUNT,
    "callbacks.denoising.moments": COUNT,
    "callbacks.denoising.every": COUNT_OR_NULL,
    "callbacks.denoising.seed": NATURAL,
    "callbacks.checkpoint.monitor": Limit(words=("fid",), null=True),
    "callbacks.checkpoint.every_n_train_steps": COUNT_OR_NULL,
}


class Rule(NamedTuple):
    """A combination without meaning."""

    broken: Callable[[DictConfig], bool]
    reason: str


def _is(part: DictConfig | None, *names: str) -> bool:
    return part is not None and str(part.get("_target_")).rpartition(".")[2] in names


def _part(part: DictConfig | None, key: str) -> Any:
    return None if part is None else OmegaConf.select(part, key)


def _pure_noise(cfg: DictConfig) -> bool:
    return _is(cfg.get("schedule"), "Flow") and cfg.schedule.log_snr_min is None


def _guides(cfg: DictConfig) -> bool:
    return _is(cfg.get("guidance"), "ClassifierFree") and cfg.guidance.scale != 1


RULES = (
    Rule(
        lambda cfg: _part(cfg.get("data"), "root") is None and "root" in (cfg.get("data") or {}),
        "data.root must be given, the folder of the images: data.root=<folder>; for fashion_mnist Debian's package "
        "dataset-fashion-mnist installs /usr/share/datasets/fashion-mnist",
    ),
    Rule(
        lambda cfg: _pure_noise(cfg) and _is(cfg.parameterization, "Eps"),
        "parameterization=eps says nothing about x0 at alpha = 0, where schedule=flow ends; "
        "take parameterization=v or x0, or end the schedule before that with schedule.log_snr_min=-15",
    ),
    Rule(
        lambda cfg: _pure_noise(cfg) and _is(_part(cfg.loss, "weighting"), "VLB"),
        "loss=vlb weights t = 1 infinitely where schedule=flow ends at alpha = 0; "
        "take loss=simple or min_snr, or end the schedule before that with schedule.log_snr_min=-15",
    ),
    Rule(
        lambda cfg: _guides(cfg) and _is(cfg.get("conditioning"), "Unconditional"),
        "guidance=cfg needs a condition to strengthen, and conditioning=none gives none; "
        "take guidance=none or conditioning=class",
    ),
    Rule(
        lambda cfg: _guides(cfg) and _part(cfg.get("conditioning"), "drop") == 0,
        "guidance=cfg needs the unconditional model, which conditioning.drop=0 never trains; "
        "take conditioning.drop=0.1 or guidance=none",
    ),
    Rule(
        lambda cfg: (_part(cfg.get("spacing"), "T") or math.inf) < (_part(cfg.get("sampler"), "steps") or 0),
        "sampler.steps is more than the steps of the spacing, spacing.T; take fewer sampler.steps or spacing=log_snr",
    ),
    Rule(
        lambda cfg: (
            (_part(cfg.get("schedule"), "beta_min") or 0) > (_part(cfg.get("schedule"), "beta_max") or math.inf)
        ),
        "schedule.beta_min is larger than schedule.beta_max; give the smaller one first",
    ),
)


def check_words(words: list[str], conf: Path, compose: Callable[[list[str]], DictConfig]) -> None:
    """One job's overrides. Raises ConfigError for a key, type or value, IncompatibleError for a combination."""
    overrides = OverridesParser.create().parse_overrides(words)
    groups = [o for o in overrides if (conf / o.key_or_group).is_dir()]
    for override in groups:
        options = sorted(path.stem for path in (conf / override.key_or_group).glob("*.yaml"))
        value = override.value()
        for option in value if isinstance(value, list) else [value]:
            if option not in (*options, "from_run"):
                raise ConfigError(
                    f"{override.key_or_group}={option} is no option; allowed: {', '.join(options)}"
                    f"{_nearest(str(option), options)}"
                )
    base = compose([o.input_line or "" for o in groups])
    for override in overrides:
        if override not in groups and override.key_or_group.split(".")[0] != "hydra":
            _check_key(override.key_or_group, None if override.is_delete() else override.value(), base, conf)
    cfg = compose(words)
    missing = sorted(OmegaConf.missing_keys(cfg) & set(cfg.keys()))
    if missing:
        raise ConfigError(f"{missing[0]} must be given: {missing[0]}=<a run's folder>")
    for key, value in _leaves(cfg):
        limit = LIMITS.get(key)
        if limit is None or (value is None and (limit.null or OmegaConf.select(base, key) is None)):
            continue
        if not all(map(limit.allows, value if OmegaConf.is_list(value) else [value])):
            raise ConfigError(f"{key}={value} makes no sense; allowed: {limit}")
    check_rules(cfg)


def check_rules(cfg: DictConfig) -> None:
    """Raises IncompatibleError for the first rule that is broken."""
    for rule in RULES:
        if rule.broken(cfg):
            raise IncompatibleError(rule.reason)


def _check_key(key: str, value: Any, base: DictConfig, conf: Path) -> None:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(base, parent) if parent else base
    if not isinstance(node, DictConfig) or name not in node.keys():  # noqa: SIM118 (`in` is false for ???)
        known = [k for k, _ in _leaves(base) if "_target_" not in k] + [
            path.name for path in conf.iterdir() if path.is_dir()
        ]
        raise ConfigError(f"{key} is no key here{_nearest(key, known) or '; --help shows all of them'}")
    default: Any = OmegaConf.select(base, key)
    if key in FREE or value is None or default is None or isinstance(default, DictConfig):
        return
    listed = OmegaConf.is_list(default)
    if listed and not isinstance(value, list):
        raise ConfigError(f"{key}={value} is not a list; write {key}=[...], as {list(default)} is")
    for item in value if listed else [value]:
        example = default[0] if listed and len(default) else default
        kind = float if isinstance(example, float) else type(example)
        fits = isinstance(item, int | float) if kind is float else isinstance(item, kind)
        if isinstance(item, bool) != isinstance(example, bool) or not fits:
            names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
            allowed = f"; allowed: {LIMITS[key]}" if key in LIMITS else f", as {example} is"
            raise ConfigError(f"{key}={value} is not {names.get(kind, kind.__name__)}{allowed}")


def _leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in map(str, node):
        path = prefix + key
        if path == "hydra" or OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        if not isinstance(value, DictConfig):
            yield path, value
        elif not OmegaConf.is_interpolation(node, key):  # else it is checked where it stands
            yield from _leaves(value, f"{path}.")


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
