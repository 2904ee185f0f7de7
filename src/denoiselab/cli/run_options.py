"""What sample.py and evaluate.py start from: a trained run, run=<folder>, or an exact denoiser, analytic=<option>.

A file of export.py stands for its run.

The option `from_run` of an axis is what the run was trained and sampled with. Without a run it is train.py's default,
but with neither guidance nor threshold: an exact denoiser is right as it is.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from denoiselab.cli import exports
from denoiselab.errors import ConfigError, RunError

SAMPLING = ("spacing", "sampler", "threshold", "guidance")
TRAINED = ("schedule", "data")  # these cannot be changed once a network has learned them
# Nor these, which sampling does not even read.
LEARNT = ("conditioning", "backbone", "codec", "loss", "norm", "parameterization", "time_sampling", "optimizer")
MOVED = ("data.root",)  # but the same data may lie in another folder now


def saved_config(folder: str | Path) -> DictConfig:
    """A run's configuration as Hydra wrote it, unresolved. Raises RunError."""
    if exports.is_export(folder):
        return OmegaConf.create(exports.about(folder)["unresolved"])
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"run={folder} is no folder; give a training run's, such as outputs/<experiment>/<date>_<time>")
    path = folder / ".hydra" / "config.yaml"
    if not path.exists():
        runs = len(list(folder.glob("*/.hydra/config.yaml")))
        hint = f"; it holds {runs} runs: run='{folder}/*' is all of them" if runs else ""
        raise RunError(f"run={folder} is no run's folder: it has no .hydra/config.yaml{hint}")
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig) or not {*SAMPLING, *TRAINED} <= set(config):
        raise RunError(f"run={folder} is not a training run's folder: {path} has no {', '.join(SAMPLING + TRAINED)}")
    return config


def judging(overrides: list[str]) -> list[str]:
    """The words for evaluate.py, with metrics=points for a run of points where nothing is said of metrics."""
    run = _given(overrides, "run")
    if run is None or _given(overrides, "metrics") or "distribution" not in saved_config(run).data:
        return overrides
    return [*overrides, "metrics=points"]


def register(overrides: list[str], defaults: Callable[[], DictConfig]) -> str:
    """Makes `from_run` known to Hydra, and ${origin:}, where the results go; `defaults` is asked where no run is given.

    Returns all that `from_run` stands for. Raises RunError for a folder that is no run's, ConfigError for what is the
    run's own.
    """
    run, analytic = _given(overrides, "run"), _given(overrides, "analytic")
    config = saved_config(run) if run else defaults()
    for axis in SAMPLING + TRAINED:
        ConfigStore.instance().store(group=axis, name="from_run", node=config[axis])
    OmegaConf.register_new_resolver("origin", lambda: beside(run, analytic), replace=True)
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        axis = key.partition(".")[0]
        if run and axis in TRAINED and key not in MOVED:
            raise ConfigError(
                f"{word} cannot be chosen with run={run}, whose network was trained with its own {axis}; "
                f"take analytic=empirical in place of run to choose the {axis}"
            )
        if run and axis.partition("@")[0] in LEARNT:
            raise ConfigError(f"{word} cannot be chosen with run={run}, which was trained with its own; leave it out")
    return OmegaConf.to_yaml({axis: config[axis] for axis in SAMPLING + TRAINED})


def check_checkpoints(overrides: list[str], names: Iterable[str]) -> None:
    """Raises RunError for a run that has no such checkpoint."""
    run = _given(overrides, "run")
    if run is None or exports.is_export(run):
        return
    for name in names:
        path = Path(run) / "checkpoints" / f"{name}.ckpt"
        if not path.exists():
            from denoiselab.cli import runs  # with torch, which reads what others there are

            runs.check_trained(Path(run))
            runs.read(path)


def beside(run: str | None, analytic: str | None) -> str:
    """The folder in which lies what is made of a run, or of an exact denoiser."""
    if run is None:
        return f"outputs/analytic/{analytic}"
    return str(Path(run).with_suffix("")) if exports.is_export(run) else run


def _given(overrides: list[str], key: str) -> str | None:
    """The last value of a key; null is none."""
    values = [word.partition("=")[2].strip("'\"") for word in overrides if word.partition("=")[0] == key]
    return values[-1] if values and values[-1] != "null" else None
