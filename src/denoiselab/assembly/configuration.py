"""Configurations, composed by Hydra from conf/ and whatever else is on its search path.

One command line is one composition: groups are composed once, and the values of the command line are set in the result.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
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
FROM_RUN = "from_run"  # the option of an axis that stands for what a run was trained or sampled with
# The axes that sample and evaluate take from the run, or for an exact denoiser from the defaults of train.
OF_A_RUN = ("schedule", "data", "spacing", "sampler", "threshold", "guidance")

for _axis in OF_A_RUN:
    ConfigStore.instance().store(group=_axis, name=FROM_RUN, node={})


class Loader(ConfigLoaderImpl):
    """Composes the configurations of one command: "train", "sample", "evaluate", "export" or "report".

    folders: further folders of options, which win over conf/. saved: the configuration of a run's folder, in place of
    the options `from_run`.
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
        """The configuration with these overrides, the node "hydra" included. Hydra itself asks for it here, too.

        Raises what Hydra raises for a group, an option or a key that does not exist, RunError for a run that cannot be
        read.
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
        """The configuration of the groups among these overrides alone: what the chosen options give by themselves."""
        groups = [o.input_line or "" for o in parsed if self._composed(o) and not o.is_sweep_override()]
        run = next((str(o.value()) for o in parsed[::-1] if o.key_or_group == "run" and o.value() is not None), None)
        key = (*groups, str(run_mode))
        if key not in self._bases:
            self._bases[key] = super().load_configuration(self.command, groups, run_mode, False, False)
        return self._taken_from_run(self._bases[key], run)

    def is_group(self, name: str) -> bool:
        return bool(self.repository.group_exists(name.partition("@")[0]))

    def options(self, group: str) -> list[str]:
        """The options of a group wherever they lie on the search path, in the order of the alphabet."""
        found = self.get_group_options(group.partition("@")[0])
        return sorted(name for name in found if name != FROM_RUN)

    def groups(self) -> list[str]:
        return [name for name in axes.AXES if self.is_group(name)]

    def _composed(self, override: Override) -> bool:
        """Whether Hydra has to know an override as it composes: a group's option, and its own settings."""
        return override.is_hydra_override() or self.is_group(override.key_or_group)

    def _taken_from_run(self, cfg: DictConfig, run: str | None) -> DictConfig:
        """The same with what a run was trained and sampled with in the place of `from_run`."""
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
    """A folder as Hydra's search path names it. Raises ConfigError for one that does not exist."""
    if "://" in folder:
        return folder
    if not Path(folder).is_dir():
        raise ConfigError(f"the folder of options {folder} does not exist; give one that holds <axis>/<option>.yaml")
    return f"file://{Path(folder).resolve()}"


def composed(command: str, overrides: Iterable[str] = ()) -> DictConfig:
    """A command's configuration with these overrides, without the node "hydra"."""
    cfg = Loader(command).load_configuration(command, list(overrides), RunMode.RUN, False, False)
    return without_hydra(cfg)


def without_hydra(cfg: DictConfig) -> DictConfig:
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return cfg


def defaults() -> DictConfig:
    """What an exact denoiser is sampled with: train's defaults with neither guidance nor threshold, as it is right."""
    return composed("train", ["guidance=none", "threshold=none"])


def settled(cfg: DictConfig) -> DictConfig:
    """metrics=none stays none, whatever an experiment sets inside it."""
    if cfg.get("metrics") and not {"extractor", "evaluation"} & set(cfg.metrics):
        cfg.metrics = {}
    return cfg


def plain(cfg: DictConfig) -> Any:
    """The resolved configuration in plain containers: what a checkpoint and a logger can hold."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
