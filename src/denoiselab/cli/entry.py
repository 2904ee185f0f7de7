"""Entry point of all commands: parse, compose and check every job before the first one starts."""

import itertools
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from denoiselab import progress
from denoiselab.assembly import rules
from denoiselab.assembly.configuration import Loader, without_hydra
from denoiselab.cli import application, checks, named_runs, requests, resume, studies, sweeps
from denoiselab.cli.application import Job
from denoiselab.errors import ConfigError, IncompatibleError, Interrupted, UserError
from denoiselab.runs.configuration import saved_config
from denoiselab.training import faults, processes

OF_A_RUN = ("sample", "evaluate", "export")  # commands that start from a run and its options


def main(command: str, argv: Sequence[str] | None = None) -> None:
    """Run "train", "sample", "evaluate", "export" or "report", the module of that name in this package.

    argv: the command line after the program's name. A user's error prints one line on stderr and exits with status 2;
    any other error is a bug and keeps its traceback.
    """
    with _one_line():
        sys.exit(_main(command, list(sys.argv[1:] if argv is None else argv)))


@contextmanager
def _one_line() -> Iterator[None]:
    """Exit with a one-line message on errors of the user or their files."""
    try:
        yield
    except UserError as error:
        _stop(str(error), error.status)
    except InstantiationException as error:
        if not str(error).startswith("Error locating target"):
            raise
        hint = ", set env var HYDRA_FULL_ERROR=1 to see chained exception."
        _stop(" ".join(str(error).split()).replace(hint, ";"))
    except OverrideParseException as error:
        _stop(f"{error.override} cannot be parsed; write key=value, and quote spaces, brackets and commas")
    except (HydraException, OmegaConfBaseException) as error:
        text = " ".join(line.strip() for line in str(error).splitlines() if line.strip() and "hydra.cc" not in line)
        _stop(text + _missing_plugin(str(error)))
    except yaml.YAMLError as error:
        _stop("a file of conf/ is not YAML: " + " ".join(str(error).split()))
    except Interrupted as stopped:
        _stop(str(stopped), stopped.status)
    except KeyboardInterrupt:
        _stop("interrupted", status=130)


def _stop(message: str, status: int = 2) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(status)


def _missing_plugin(message: str) -> str:
    """Return a hint on how to install a missing sweeper or launcher of Hydra."""
    named = any(f"'hydra/{part}" in message for part in ("sweeper/optuna", "launcher/joblib", "launcher/submitit"))
    return "; pip install 'denoiselab[sweeps]' installs Hydra's plugins for Optuna, joblib and submitit" * named


def _main(command: str, argv: list[str]) -> int:
    parser = get_args_parser()
    parser.error = _refuse_flag  # type: ignore[method-assign]
    arguments = parser.parse_args(argv)
    given, multirun = list(arguments.overrides), arguments.multirun
    overrides = given
    if command == "train":
        overrides = processes.as_one_of_several(resume.resumed_overrides(given, multirun), multirun)
    loader = Loader(command, _folders(arguments, overrides), saved_config if command in OF_A_RUN else None)
    turns = [overrides]
    if command == "evaluate":
        turns = list(map(requests.with_metrics, named_runs.turns(overrides, multirun)))
    if arguments.help or arguments.hydra_help or arguments.info or arguments.cfg or arguments.shell_completion:
        return _show(arguments, parser, loader, turns[0])
    several = multirun or len(turns) > 1
    together = Path(f"outputs/evaluations/{time.strftime('%Y-%m-%d_%H-%M-%S')}") if len(turns) > 1 else None
    swept = sweeps.Sweeps()
    try:
        plans = [Plan.made(loader, turn, several, swept) for turn in turns]
        if command == "train" and not (multirun or processes.rank()):
            resume.compare(given, without_hydra(plans[0].cfg))
        with _progress(command, plans):
            for plan in plans:
                _carry_out(loader, plan, swept)
    finally:
        swept.close()
        status = sweeps.conclude(swept.begun, together)
    return status


def _refuse_flag(message: str) -> NoReturn:
    _stop(f"{message}; flags such as -m come first, --help lists what there is")


def _folders(arguments: Namespace, overrides: Sequence[str]) -> list[str]:
    """Return additional folders of options: --config-dir and hydra.searchpath."""
    folders = [] if arguments.config_dir is None else [str(arguments.config_dir)]
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group == "hydra.searchpath":
            folders += list(map(str, override.value()))  # type: ignore[arg-type]
    return folders


def _show(arguments: Namespace, parser: ArgumentParser, loader: Loader, overrides: list[str]) -> int:
    """Let Hydra handle --help, --cfg and similar flags."""
    hydra = Hydra(task_name=loader.command, config_loader=loader)
    arguments.overrides = overrides
    if arguments.help:
        hydra.app_help(config_name=loader.command, args_parser=parser, args=arguments)
    elif arguments.hydra_help:
        hydra.hydra_help(config_name=loader.command, args_parser=parser, args=arguments)
    elif arguments.cfg:
        hydra.show_cfg(loader.command, overrides, arguments.cfg, arguments.package, arguments.resolve)
    elif arguments.info:
        hydra.show_info(arguments.info, loader.command, overrides)
    else:
        hydra.shell_completion(loader.command, overrides)
    return 0


@dataclass
class Plan:
    """One job, or the jobs of a sweep, that a command line runs. cfg includes the node "hydra"."""

    cfg: DictConfig
    multirun: bool
    jobs: list[DictConfig] = field(default_factory=list)  # checked; empty for a search, which proposes them later

    @classmethod
    def made(cls, loader: Loader, overrides: list[str], several: bool, swept: sweeps.Sweeps) -> "Plan":
        """Build and check the plan. Raises the error of the first invalid job."""
        if several:
            overrides = [*overrides, "hydra.mode=MULTIRUN"]
        sweep = _sweep(loader, overrides)
        jobs = check(loader, overrides, sweep, several)
        if loader.command in OF_A_RUN:
            requests.check_checkpoints(overrides, {str(job.checkpoint) for job in jobs})
        if sweep is None:
            jobs[0].hydra.mode = RunMode.RUN
            return cls(jobs[0], False, jobs)
        swept.hold(sweep.hydra, overrides)
        return cls(sweep, True, jobs)


def _sweep(loader: Loader, overrides: list[str]) -> DictConfig | None:
    """Return a sweep's configuration, if the command line or its experiment requests one."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    if not {override.key_or_group for override in parsed} & {"experiment", "hparams_search", "hydra.mode"}:
        return None
    try:
        cfg = loader.load_configuration(loader.command, overrides, RunMode.MULTIRUN)
    except (HydraException, OmegaConfBaseException):
        return None  # later checks report the error
    return cfg if cfg.hydra.mode == RunMode.MULTIRUN else None


def check(loader: Loader, overrides: list[str], sweep: DictConfig | None, several: bool) -> list[DictConfig]:
    """Return the checked configurations of all jobs; empty for a search, whose values are checked one by one."""
    if loader.command in OF_A_RUN:
        requests.check_trained(overrides)
    params = [f"{key}={values}" for key, values in ((sweep and sweep.hydra.sweeper.params) or {}).items()]
    values = _values([*params, *overrides], several or sweep is not None)
    advice: dict[str, None] = {}
    jobs: list[DictConfig] = []
    if sweep is not None and studies.searches(sweep.hydra):
        _check_search(loader, values)
    else:
        for words in itertools.product(*values.values()):
            jobs.append(checks.check_job(loader, list(words)))
            advice |= dict.fromkeys(rules.advice(jobs[-1]))
    for note in advice if processes.rank() == 0 else ():
        print(f"{loader.command}: note: {note}", file=sys.stderr)
    return jobs


def _check_search(loader: Loader, values: dict[str, list[str]]) -> None:
    """Check each value of a search, combined with the first value of the other keys.

    An invalid combination only fails its trial, unless all combinations checked are invalid.
    """
    first = {key: words[0] for key, words in values.items()}
    refused = {}
    tried = {tuple((first | {key: word}).values()) for key, words in values.items() for word in words}
    for words in sorted(tried):
        try:
            checks.check_job(loader, list(words))
        except IncompatibleError as error:
            refused[words] = error
    if len(refused) == len(tried):
        raise next(iter(refused.values()))
    if not checks.check_job(loader, list(next(words for words in sorted(tried) if words not in refused))).get(
        "metrics"
    ):
        raise ConfigError("a search compares trials by a metric, and metrics=none makes none; use metrics=fid")


def _values(overrides: list[str], multirun: bool) -> dict[str, list[str]]:
    """Return the last override of each key: all values if it is swept, the end points of an interval."""
    alternatives = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        key, value = override.get_key_element(), override.value()
        if not override.is_sweep_override():
            alternatives[key] = [override.input_line or ""]
        elif not multirun:
            raise ConfigError(
                f"{override.input_line} gives several values; add -m to run one job for each, "
                f"or write {override.key_or_group}=[...] if a list is meant"
            )
        elif isinstance(value, IntervalSweep):
            alternatives[key] = [f"{key}={value.start}", f"{key}={value.end}"]
        elif override.is_discrete_sweep():
            alternatives[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    return alternatives


def _carry_out(loader: Loader, plan: Plan, swept: sweeps.Sweeps) -> None:
    task = Task(loader)
    with faults.told(), sweeps.launched():
        if plan.multirun:
            swept.begin(plan.cfg)
            application.sweep(loader, plan.cfg, task)
            return
        folder = Path(plan.cfg.hydra.run.dir)
        there = folder.exists() or processes.rank() > 0
        try:
            application.run(loader, plan.cfg, task)
        except UserError:
            if not there:
                _remove_if_empty(folder)
            raise


@dataclass
class Task:
    """A callable that runs one job of a command, in this process or in one started by a launcher."""

    loader: Loader

    def __call__(self, cfg: DictConfig) -> Any:
        job = Job.current()
        work: Callable[[DictConfig, Job], Any] = import_module(f"denoiselab.cli.{self.loader.command}").run
        if job.sweep is None:
            return work(cfg, job)
        with progress.job():
            return sweeps.surviving(lambda: work(self._checked(cfg, job), job))

    def _checked(self, cfg: DictConfig, job: Job) -> DictConfig:
        """Check a trial's values, which a search proposes only now."""
        if job.searches:
            checks.check_job(self.loader, job.overrides)
        return cfg


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder of a rejected run if it holds only its configuration."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".hydra", ".lock", "run.json"}:
        shutil.rmtree(folder)
        if folder.parent.parent.name == "outputs" and not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def _progress(command: str, plans: list[Plan]) -> AbstractContextManager[Any]:
    """Return a progress bar over the jobs of an evaluation, unless a launcher runs them elsewhere."""
    jobs = [cfg for plan in plans for cfg in plan.jobs]
    if command != "evaluate" or len(jobs) < 2 or "Basic" not in plans[0].cfg.hydra.launcher._target_:
        return nullcontext()
    return progress.Jobs("evaluations", [_cost(cfg) for cfg in jobs])


def _cost(cfg: DictConfig) -> float:
    """Estimate an evaluation's cost, in network evaluations of one image."""
    samples = (cfg.n or 500) * (cfg.sampler.get("steps") or 1) if cfg.metrics else 0
    return float(1000 + samples + (50 * (cfg.likelihood.get("n") or 500) if cfg.likelihood else 0))
