"""Optuna searches: a study resumes where it stopped, and each trial is one job of the sweep.

hydra-optuna-sweeper runs the trials and reports their values to the study; this module adds what it lacks.
"""

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf, read_write

from denoiselab.axes import Role, role
from denoiselab.cli.resume import requested
from denoiselab.errors import BrokenRunError, ConfigError
from denoiselab.overrides import key_of

NONE_ENDED = "No trials are completed yet."  # Optuna's error for the best of no trials


def searches(hydra: DictConfig | HydraConf) -> bool:
    return "optuna" in str(hydra.sweeper._target_)


def check(before: Path, hydra: DictConfig, overrides: Sequence[str]) -> None:
    """Raise ConfigError if the study's saved multirun.yaml has other overrides."""
    saved = OmegaConf.load(before).hydra
    if other := sorted(_words(saved, saved.overrides.task) ^ _words(hydra, overrides)):
        raise ConfigError(
            f"{before.parent} is a study of another experiment (it differs in {', '.join(other)}), whose trials these "
            "cannot be compared with; give this one a folder of its own, hydra.sweep.dir=<folder>"
        )


def _words(hydra: DictConfig, overrides: Sequence[str]) -> set[str]:
    """Return the overrides that all trials of a study share: all but running and naming options."""
    words = [*overrides, *(f"{key}={values}" for key, values in (hydra.sweeper.params or {}).items())]
    keyed = {word.replace(" ", ""): key_of(word) for word in words}
    return {word for word, key in keyed.items() if role(key) not in (Role.RUNNING, Role.NAMING)}


def prepare(hydra: DictConfig) -> None:
    """Re-enqueue interrupted trials with the same values, before the sweeper starts.

    With resume=true, failed trials are re-enqueued too, and n_trials includes completed ones; otherwise n_trials more
    are run. The sampler gets another seed, as with the same one it would propose the first trials again.
    """
    import optuna
    from optuna.trial import TrialState

    logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl").addFilter(_not_told_already)
    sweeper, again = hydra.sweeper, requested(hydra.overrides.task)
    try:
        study = optuna.load_study(sweeper.study_name, sweeper.storage)
    except (KeyError, ValueError):  # no study yet, or one in memory
        return
    asked: list[dict[str, Any]] = []
    trials = study.trials
    known = [_values(trial) for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.WAITING)]
    for trial in trials:
        if trial.state == TrialState.RUNNING:  # its process is dead, as the sweep's folder is locked
            study.tell(trial.number, state=TrialState.FAIL)
        broken = trial.state == TrialState.RUNNING or (again and trial.state == TrialState.FAIL)
        if broken and (values := _values(trial)) and values not in [*known, *asked]:
            asked.append(values)
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        for values in asked:
            study.enqueue_trial(values)
    with read_write(hydra):
        if again:
            sweeper.n_trials = max(0, sweeper.n_trials - sum(t.state == TrialState.COMPLETE for t in trials))
        if sweeper.sampler.get("seed") is not None:
            sweeper.sampler.seed += len(trials)


def _values(trial: Any) -> dict[str, Any]:
    """Return a trial's values, or the enqueued ones if it is waiting."""
    return trial.params or trial.system_attrs.get("fixed_params", {})


def _not_told_already(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Failed experiment")


def comparable(figure: Any) -> float:
    """Return a trial's metric. Raises BrokenRunError if it is not a finite number, as a NaN would end the study."""
    if not isinstance(figure, int | float) or not math.isfinite(figure):
        raise BrokenRunError(f"it came to no figure that a search can judge it by ({figure})")
    return float(figure)
