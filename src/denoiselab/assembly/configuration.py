"""Configurations, composed by Hydra from conf/ and the rest of its search path.

Groups are composed once per command line, and its values are set in the result.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from denoiselab import axes
from denoiselab.errors import ConfigError

CONF = Path(__file__).resolve().parents[3] / "conf"
FROM_RUN = "from_run"  # the option of an axis that stands for the run's own
# The axes that sample and evaluate take from the run, or from train's defaults for an exact denoiser.
OF_A_RUN = ("schedule", "data", "spacing", "sampler", "threshold", "guidance")

for _axis in OF_A_RUN:
    ConfigStore.instance().store(group=_axis, name=FROM_RUN, node={})


class Loader(ConfigLoaderImpl):
    """Loader of the configurations of one command: "train", "sample", "evaluate", "export" or "report".

    folders: more folders of options, which take precedence over conf/. saved: returns the configuration of a run
    folder, which replaces the options `from_run`.
    """

    def __init__(
        self, command: str, folders: Iterable[str] = (), saved: Callable[[str], DictConfig] | None = None
    ) -> None:
        version.setbase("1.3")
        setup_globals()
        path = create_config_search_path(f"file://{CONF}")
        for folder in folders:
            path.prepend("command-line", _source(folder), SearchPathQuery(provider="schema"))
        super().__init__(path)
        self.command, self.saved = command, saved
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._saved: dict[str | None, DictConfig] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Return the configuration with these overrides, including the node "hydra". Hydra calls this too.

        Raises Hydra's errors for unknown groups, options and keys, RunError for a run that cannot be read.
        """
        parsed = OverridesParser.create().parse_overrides(overrides)
        if validate_sweep_overrides:
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        cfg = copy.deepcopy(self.base(parsed, run_mode))
        values = [override for override in parsed if not (self._composed(override) or override.is_sweep_override())]
        self._apply_overrides_to_config(values, cfg)
        cfg.hydra.overrides.task = [o.input_line for o in parsed if not o.is_hydra_override()]
        return settled(cfg)

    def base(self, parsed: Sequence[Override], run_mode: RunMode = RunMode.RUN) -> DictConfig:
        """Return the configuration with only the group overrides applied."""
        groups = [o.input_line or "" for o in parsed if self._composed(o) and not o.is_sweep_override()]
        run = next((str(o.value()) for o in parsed[::-1] if o.key_or_group == "run" and o.value() is not None), None)
        key = (*groups, str(run_mode))
        if key not in self._bases:
            self._bases[key] = super().load_configuration(self.command, groups, run_mode, False, False)
        return self._taken_from_run(self._bases[key], run)

    def is_group(self, name: str) -> bool:
        return bool(self.repository.group_exists(name.partition("@")[0]))

    def options(self, group: str) -> list[str]:
        """Return a group's options from the whole search path, in alphabetical order."""
        found = self.get_group_options(group.partition("@")[0])
        return sorted(name for name in found if name != FROM_RUN)

    def groups(self) -> list[str]:
        return [name for name in axes.AXES if self.is_group(name)]

    def _composed(self, override: Override) -> bool:
        """Whether an override takes part in composition: a group's option, or one of Hydra's settings."""
        return override.is_hydra_override() or self.is_group(override.key_or_group)

    def _taken_from_run(self, cfg: DictConfig, run: str | None) -> DictConfig:
        """Replace the options `from_run` by the run's own."""
        wanted = [axis for axis in OF_A_RUN if cfg.hydra.runtime.choices.get(axis) == FROM_RUN]
        if not wanted:
            return cfg
        if run not in self._saved:
            self._saved[run] = defaults() if run is None or self.saved is None else self.saved(run)
        cfg = copy.deepcopy(cfg)
        with open_dict(cfg):
            for axis in wanted:
                cfg[axis] = copy.deepcopy(self._saved[run][axis])
        OmegaConf.set_struct(cfg, True)
        return cfg


def _source(folder: str) -> str:
    """Return a folder as an entry of Hydra's search path. Raises ConfigError if it does not exist."""
    if "://" in folder:
        return folder
    if not Path(folder).is_dir():
        raise ConfigError(f"the folder of options {folder} does not exist; give one that holds <axis>/<option>.yaml")
    return f"file://{Path(folder).resolve()}"


def composed(command: str, overrides: Iterable[str] = ()) -> DictConfig:
    """Return a command's configuration with these overrides, without the node "hydra"."""
    return without_hydra(_loader(command).load_configuration(command, list(overrides), RunMode.RUN, False, False))


@cache
def _loader(command: str) -> Loader:
    return Loader(command)


def without_hydra(cfg: DictConfig) -> DictConfig:
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return cfg


def defaults() -> DictConfig:
    """Return an exact denoiser's sampling options: train's defaults without guidance and threshold, as it is exact."""
    return composed("train", ["guidance=none", "threshold=none"])


def settled(cfg: DictConfig) -> DictConfig:
    """Keep metrics=none empty, whatever an experiment sets inside it."""
    if cfg.get("metrics") and not {"extractor", "evaluation"} & set(cfg.metrics):
        cfg.metrics = {}
    return cfg


def plain(cfg: DictConfig) -> Any:
    """Return the resolved configuration in plain containers, for checkpoints and loggers."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
