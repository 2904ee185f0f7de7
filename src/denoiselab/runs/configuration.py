"""A run's configuration, read from its run folder or an exported file. Needs no torch."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from denoiselab.assembly.aliases import renamed
from denoiselab.assembly.configuration import OF_A_RUN
from denoiselab.errors import RunError
from denoiselab.runs import export


def saved_config(folder: str | Path) -> DictConfig:
    """Return a run's configuration as Hydra saved it, unresolved. Raises RunError if it is not a training run."""
    if export.is_export(folder):
        return OmegaConf.create(export.about(folder)["unresolved"])
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"run={folder} is no folder; give a training run's, such as outputs/<experiment>/<date>_<time>")
    path = folder / ".hydra" / "config.yaml"
    if not path.exists():
        runs = len(list(folder.glob("*/.hydra/config.yaml")))
        hint = f"; it holds {runs} runs: run='{folder}/*' is all of them" if runs else ""
        raise RunError(f"run={folder} is no run's folder: it has no .hydra/config.yaml{hint}")
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig) or not set(OF_A_RUN) <= set(config):
        raise RunError(f"run={folder} is not a training run's folder: {path} has no {', '.join(OF_A_RUN)}")
    return OmegaConf.create(renamed(OmegaConf.to_container(config)))


def results_folder(run: str | None, analytic: str | None) -> str:
    """Return the folder for results of a run or of an exact denoiser."""
    if run is None:
        return f"outputs/analytic/{analytic}"
    return str(Path(run).with_suffix("")) if export.is_export(run) else run


OmegaConf.register_new_resolver("results_folder", results_folder, replace=True)
