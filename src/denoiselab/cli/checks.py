"""What a configuration must be, checked without torch so that a slip is answered at once.

Three kinds: keys and types, against the configuration that the chosen options give by themselves; the limits of single
values (limits.py); and rules between parts (rules/).
"""

import difflib
from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from denoiselab.assembly.configuration import Loader, without_hydra
from denoiselab.assembly.rules import check_rules
from denoiselab.cli.limits import FREE, limit_of
from denoiselab.errors import ConfigError

_OPTIONAL = ("callbacks.", "metrics.figures.")  # parts that may be null


def check(loader: Loader, words: list[str]) -> DictConfig:
    """One job's configuration. Raises ConfigError for a key, type or value, IncompatibleError for a combination."""
    overrides = OverridesParser.create().parse_overrides(words)
    for override in overrides:
        if override.is_delete() and not override.key_or_group.startswith("callbacks."):
            raise ConfigError(
                f"{override.input_line} takes away what every run needs; only callbacks can be left out, as in "
                "~callbacks.samples"
            )
        if override.key_or_group == "hydra.run.dir" and not override.value():
            raise ConfigError("hydra.run.dir is empty; give a folder, as in hydra.run.dir=outputs/mine")
    groups = [o for o in overrides if loader.is_group(o.key_or_group)]
    for override in groups:
        options = loader.options(override.key_or_group)
        value = override.value()
        for option in value if isinstance(value, list) else [value]:
            if option not in (*options, "from_run"):
                raise ConfigError(
                    f"{override.key_or_group}={option} is no option; allowed: {', '.join(options)}"
                    f"{_nearest(str(option), options)}"
                )
    base = loader.base(overrides)
    for override in overrides:
        if override not in groups and not override.key_or_group.startswith(("hydra.", "hydra/")):
            _check_key(override.key_or_group, None if override.is_delete() else override.value(), base, loader.groups())
    cfg = loader.load_configuration(loader.command, words, RunMode.RUN, validate_sweep_overrides=False)
    missing = sorted(OmegaConf.missing_keys(without_hydra(cfg)) & set(cfg.keys()))
    if missing:
        raise ConfigError(f"{missing[0]} must be given: {missing[0]}=<a run's folder>")
    for key, value in _leaves(cfg):
        limit = limit_of(key)
        if limit is None or (value is None and (limit.null or OmegaConf.select(base, key) is None)):
            continue
        if not all(map(limit.allows, value if OmegaConf.is_list(value) else [value])):
            raise ConfigError(f"{key}={shown(value)} makes no sense; allowed: {limit}")
    check_rules(cfg)
    return cfg


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _check_key(key: str, value: Any, base: DictConfig, groups: list[str]) -> None:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(base, parent) if parent else base
    if not isinstance(node, DictConfig) or name not in node.keys():  # noqa: SIM118 (`in` is false for ???)
        known = [k for k, _ in _leaves(base) if "_target_" not in k] + groups
        raise ConfigError(f"{key} is no key here{_nearest(key, known) or '; --help shows all of them'}")
    default: Any = OmegaConf.select(base, key)
    if value == "" and default is None:
        raise ConfigError(f"{key} is empty; leave it out, or give it a value")
    if isinstance(default, DictConfig):
        _check_part(key, value, default)
        return
    if key in FREE or value is None or default is None:
        return
    listed = OmegaConf.is_list(default)
    if listed and not isinstance(value, list):
        raise ConfigError(f"{key}={shown(value)} is not a list; write {key}=[...], as {list(default)} is")
    if value == "":
        raise ConfigError(f"{key} is empty; leave it out for what it is by default, {shown(default)}")
    if listed and not len(default):
        return  # nothing says what it holds
    for item in value if listed else [value]:
        example = default[0] if listed else default
        kind = float if isinstance(example, float) else type(example)
        fits = isinstance(item, int | float) if kind is float else isinstance(item, kind)
        if isinstance(item, bool) != isinstance(example, bool) or not fits:
            names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
            limit = limit_of(key)
            allowed = f"; allowed: {limit._replace(whole=False)}" if limit else f", as {shown(example)} is"
            if kind is int and isinstance(item, float) and item.is_integer():
                allowed = f"; write {item:.0f}"
            raise ConfigError(f"{key}={shown(value)} is not {names.get(kind, kind.__name__)}{allowed}")


def _check_part(key: str, value: Any, default: DictConfig) -> None:
    """A key under which there are others: a value of its own it has not, but some may be left out."""
    optional = key.startswith(_OPTIONAL)
    if isinstance(value, dict) or (value is None and optional):
        return
    names = [name for name in map(str, default) if not name.startswith("_")]
    inside = f"; write {key}.{names[0]}=..., which is in it" if names else ""
    more = "; null leaves it out" if optional else ""
    raise ConfigError(f"{key}={shown(value)} says nothing, as {key} is a part and no value{inside}{more}")


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
