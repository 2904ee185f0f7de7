"""Searches by Optuna: a study goes on where it was stopped, and every trial of it is one job of the sweep.

hydra-optuna-sweeper asks for the trials and tells the study what they came to; here is what it leaves out.
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

NONE_ENDED = "No trials are completed yet."  # Optuna, asked for the best of none


def searches(hydra: DictConfig | HydraConf) -> bool:
    return "optuna" in str(hydra.sweeper._target_)


def check(before: Path, hydra: DictConfig, overrides: Sequence[str]) -> None:
    """Raises ConfigError for a study whose trials, as its multirun.yaml tells, were of other words."""
    saved = OmegaConf.load(before).hydra
    if other := sorted(_words(saved, saved.overrides.task) ^ _words(hydra, overrides)):
        raise ConfigError(
            f"{before.parent} is a study of another experiment (it differs in {', '.join(other)}), whose trials these "
            "cannot be compared with; give this one a folder of its own, hydra.sweep.dir=<folder>"
        )


def _words(hydra: DictConfig, overrides: Sequence[str]) -> set[str]:
    """What must be equal between the trials of a study: all but where and how they run."""
    words = [*overrides, *(f"{key}={values}" for key, values in (hydra.sweeper.params or {}).items())]
    keyed = {word.replace(" ", ""): key_of(word) for word in words}
    return {word for word, key in keyed.items() if role(key) not in (Role.RUNNING, Role.NAMING)}


def prepare(hydra: DictConfig) -> None:
    """Before the sweeper begins: asks the study once more for the trials that broke off, with the values that they had.

    With resume=true for those that failed too, and n_trials counts those of before; else that many more are run. The
    sampler gets another seed, since with the same one it would propose the first trials again.
    """
    import optuna
    from optuna.trial import TrialState

    logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl").addFilter(_not_told_already)
    sweeper, again = hydra.sweeper, requested(hydra.overrides.task)
    try:
        study = optuna.load_study(sweeper.study_name, sweeper.storage)
    except (KeyError, ValueError):  # there is none yet, or it is kept in memory
        return
    asked: list[dict[str, Any]] = []
    trials = study.trials
    known = [_values(trial) for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.WAITING)]
    for trial in trials:
        if trial.state == TrialState.RUNNING:  # by a process that is dead: there is one at a time in a sweep's folder
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
    """A trial's values; those that it is to have, where it waits."""
    return trial.params or trial.system_attrs.get("fixed_params", {})


def _not_told_already(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Failed experiment")


def comparable(figure: Any) -> float:
    """What a trial came to. Raises BrokenRunError for what Optuna cannot compare: a NaN would end the whole study."""
    if not isinstance(figure, int | float) or not math.isfinite(figure):
        raise BrokenRunError(f"it came to no figure that a search can judge it by ({figure})")
    return float(figure)
