"""The option `from_run` of the sampling axes: what the run given by run=<folder> was trained and sampled with."""

from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from denoiselab.errors import RunError

AXES = ("spacing", "sampler", "threshold", "guidance")


def saved_config(folder: str | Path) -> DictConfig:
    """A run's configuration as Hydra wrote it, unresolved. Raises RunError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"run={folder} is no folder; give a training run's, such as outputs/default/<date>_<time>")
    path = folder / ".hydra" / "config.yaml"
    if not path.exists():
        raise RunError(f"run={folder} is no run's folder: it has no .hydra/config.yaml")
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig) or not set(AXES) <= set(config):
        raise RunError(f"run={folder} is not a training run's folder: {path} has no {', '.join(AXES)}")
    return config


def register(overrides: list[str]) -> None:
    """Makes `from_run` known to Hydra; empty where no run is given, which only --help survives."""
    given = [word.partition("=")[2] for word in overrides if word.startswith("run=")]
    config = saved_config(given[-1].strip("'\"")) if given else OmegaConf.create()
    for axis in AXES:
        ConfigStore.instance().store(group=axis, name="from_run", node=config.get(axis, {}))
