"""Checks of a configuration that need no torch, so that errors are reported at once.

Keys and types are compared with the configuration of the chosen options, values with their limits from the parts'
signatures (signatures.py) and limits.py, combinations with the rules of assembly/rules/.
"""

import difflib
from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from denoiselab.assembly.configuration import Loader, without_hydra
from denoiselab.assembly.rules import check_rules
from denoiselab.cli.limits import FREE, LIMITS
from denoiselab.cli.signatures import limit_of
from denoiselab.errors import ConfigError, shown
from denoiselab.limits import check

_OPTIONAL = ("callbacks.", "metrics.figures.")  # groups that may be null


def check_job(loader: Loader, words: list[str]) -> DictConfig:
    """Return one job's configuration. Raises ConfigError for an invalid key, type or value, IncompatibleError for an
    invalid combination."""
    overrides = OverridesParser.create().parse_overrides(words)
    for override in overrides:
        if override.is_delete() and not override.key_or_group.startswith("callbacks."):
            raise ConfigError(
                f"{override.input_line} removes a key that every run needs; only callbacks can be removed, as in "
                "~callbacks.samples"
            )
        if override.key_or_group == "hydra.run.dir" and not override.value():
            raise ConfigError("hydra.run.dir is empty; give a folder, as in hydra.run.dir=outputs/mine")
    groups = [o for o in overrides if loader.is_group(o.key_or_group) and not o.is_hydra_override()]
    for override in groups:
        options = loader.options(override.key_or_group)
        value = override.value()
        for option in value if isinstance(value, list) else [value]:
            if option not in (*options, "from_run"):
                raise ConfigError(
                    f"{override.key_or_group}={shown(option)} does not exist; choose one of {', '.join(options)}"
                    f"{_nearest(str(option), options)}"
                )
    base = loader.base(overrides)
    limited = {key for key, _, _ in limits(base)}
    for override in overrides:
        key = override.key_or_group
        if override not in groups and not key.startswith(("hydra.", "hydra/")):
            value = None if override.is_delete() else override.value()
            _check_key(key, value, base, loader.groups(), key in limited)
    cfg = loader.load_configuration(loader.command, words, RunMode.RUN, validate_sweep_overrides=False)
    missing = sorted(OmegaConf.missing_keys(without_hydra(cfg)) & set(cfg.keys()))
    if missing:
        raise ConfigError(f"{missing[0]} is required; give {missing[0]}=<run folder>")
    check_values(cfg, base)
    check_rules(cfg)
    return cfg


def check_values(cfg: DictConfig, base: DictConfig) -> None:
    """Raise InvalidValue for a value outside its limit; null is allowed if it is the default in `base`."""
    for key, value, hint in limits(cfg):
        if value is not None or OmegaConf.select(base, key) is not None:
            check(key, hint, value)


def limits(cfg: DictConfig) -> list[tuple[str, Any, Any]]:
    """Return (key, value, type hint) of each option with a limit; those interpolated from another key come last."""
    known = sorted(_limits(cfg), key=lambda row: row[0])
    return [row for _, *row in known]  # type: ignore[misc]


def _limits(node: DictConfig, prefix: str = "") -> Iterator[tuple[bool, str, Any, Any]]:
    target = str(node.get("_target_"))
    for key in map(str, node):
        path, copied = f"{prefix}{key}", OmegaConf.is_interpolation(node, key)
        if path == "hydra" or OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig):
            if not copied:  # else it is checked at its source
                yield from _limits(value, f"{path}.")
        elif (hint := limit_of(target, key) or LIMITS.get(path)) is not None:
            yield copied, path, OmegaConf.to_container(value) if OmegaConf.is_list(value) else value, hint


def _check_key(key: str, value: Any, base: DictConfig, groups: list[str], limited: bool) -> None:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(base, parent) if parent else base
    if not isinstance(node, DictConfig) or name not in node.keys():  # noqa: SIM118 (`in` is false for ???)
        known = [k for k in _keys(base) if "_target_" not in k] + groups
        near = _nearest(key, known)
        raise ConfigError(f"{key} is not an option here{near or ';'} --help lists all options")
    default: Any = OmegaConf.select(base, key)
    if isinstance(default, DictConfig):
        _check_group(key, value, default)
    elif value == "":
        raise ConfigError(f"{key} is empty; leave it out to keep the default, {shown(default)}, or give a value")
    elif not limited and key not in FREE and value is not None and default is not None:
        kinds = [type(item) for item in default] if OmegaConf.is_list(default) else []
        check(key, list[kinds[0] if kinds else Any] if OmegaConf.is_list(default) else type(default), value)  # type: ignore[misc]


def _check_group(key: str, value: Any, default: DictConfig) -> None:
    optional = key.startswith(_OPTIONAL)
    if isinstance(value, dict) or (value is None and optional):
        return
    inside = [name for name in map(str, default) if not name.startswith("_")]
    example = f"; set a key inside it, e.g. {key}.{inside[0]}=..." if inside else ""
    null = f"; {key}=null leaves it out" if optional else ""
    raise ConfigError(f"{key} is a group and cannot be {shown(value) or 'empty'}{example}{null}")


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, node):
        if prefix + key == "hydra" or OmegaConf.is_missing(node, key):
            continue
        if not isinstance(node[key], DictConfig):
            yield prefix + key
        elif not OmegaConf.is_interpolation(node, key):
            yield from _keys(node[key], f"{prefix}{key}.")


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
