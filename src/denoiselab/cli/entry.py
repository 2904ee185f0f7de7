"""From the words of a command line to one checked configuration, and one line for each slip."""

import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from denoiselab import progress
from denoiselab.cli import checks, faults, named_runs, ranks, resume, rules, run_options, studies, sweeps
from denoiselab.errors import ConfigError, IncompatibleError, Interrupted, UserError

OF_A_RUN = ("sample", "evaluate", "export")  # commands that start from one that is there, and from its choices
CONF = Path(__file__).resolve().parents[3] / "conf"


def main(command: str) -> None:
    """Runs a command, "train", "sample" or "evaluate": the module of that name here, with conf/<command>.yaml.

    A user's slip is told in one line on stderr, and the exit status is 2; anything else is a bug and keeps its trace.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on as they are; they are told here
    try:
        parser = get_args_parser()
        parser.error = lambda message: _stop(f"{message}; flags such as -m come first, --help shows what there is")  # type: ignore[method-assign]
        arguments = parser.parse_args()
        given = list(arguments.overrides)
        if command == "train":
            arguments.overrides = _run_words(arguments.overrides, arguments.multirun)
        shows = arguments.help or arguments.hydra_help or arguments.info or arguments.cfg
        turns, multirun = [arguments.overrides], arguments.multirun
        if command == "evaluate":
            turns = named_runs.turns(arguments.overrides, multirun)[: 1 if shows else None]
            turns = list(map(run_options.judging, turns))
            multirun |= len(turns) > 1
        jobs = [] if shows else _checked(command, turns, multirun)
        if command == "train" and not (shows or multirun or ranks.rank() or ranks.started_here()):
            resume.compare(given, partial(composed, command, arguments.overrides))
        together = Path(f"outputs/evaluations/{time.strftime('%Y-%m-%d_%H-%M-%S')}") if len(turns) > 1 else None
        try:
            with _progress(command, jobs, arguments.overrides):
                for words in turns:
                    _register(command, words)
                    _put_in_place(arguments.overrides, words, multirun and not arguments.multirun)
                    arguments = parser.parse_args()
                    with faults.told(), sweeps.launched():
                        _task(command, ranks.rank() > 0 or _given_folder(words))()
        finally:
            status = sweeps.conclude(together)
        sys.exit(status)
    except (UserError, InstantiationException) as error:
        _tell(error)
    except OverrideParseException as error:
        _stop(f"{error.override} cannot be read; write key=value, and quote what has spaces, brackets or commas")
    except (HydraException, OmegaConfBaseException) as error:
        said = " ".join(line.strip() for line in str(error).splitlines() if line.strip() and "hydra.cc" not in line)
        _stop(said + _extra(str(error)))
    except yaml.YAMLError as error:
        _stop("a file of conf/ is not YAML: " + " ".join(str(error).split()))
    except Interrupted as stopped:
        _stop(str(stopped), stopped.status)
    except KeyboardInterrupt:
        _stop("interrupted", status=130)


def _task(command: str, there: bool) -> Callable[[], None]:
    """Hydra's run of a command; `there` says that the folder of a single run is not its own."""

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)
    def task(cfg: DictConfig) -> Any:
        run = partial(import_module(f"denoiselab.cli.{command}").run, _settled(cfg))
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            with progress.job():
                return sweeps.surviving(partial(_checked_job, command, run))
        try:
            return run()
        except (UserError, InstantiationException) as error:
            if not there:
                _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
            _tell(error)

    return task


def _run_words(overrides: list[str], multirun: bool) -> list[str]:
    """The overrides with those of the run to go on with, and this process's; on the command line too, for Hydra."""
    whole = ranks.as_one_of_several(resume.words(overrides, multirun), multirun)
    _put_in_place(overrides, whole)
    return whole


def _put_in_place(before: list[str], words: list[str], multirun: bool = False) -> None:
    """Other overrides on the command line, and -m if it is to be one of several jobs."""
    flags = list(sys.argv[1:])
    for word in before:
        flags.remove(word)
    sys.argv[1:] = [*flags, *(["-m"] if multirun else []), *words]


def _register(command: str, overrides: list[str]) -> str:
    """What the run named there was sampled with is known as from_run; all of that in one string."""
    if command not in OF_A_RUN:
        return ""
    return run_options.register(overrides, lambda: composed("train", ["guidance=none", "threshold=none"]))


def _checked(command: str, turns: list[list[str]], multirun: bool) -> list[DictConfig]:
    """The configurations of all jobs of all runs. Raises what is wrong with the first that cannot be."""
    jobs: list[DictConfig] = []
    known: dict[str, list[DictConfig]] = {}
    for words in turns:
        own = _register(command, words)
        if own not in known:  # runs that were sampled in the same way have the same slips
            known[own] = check(command, words, multirun)
        if command in OF_A_RUN:
            run_options.check_checkpoints(words, {str(cfg.checkpoint) for cfg in known[own]})
        jobs += known[own]
    return jobs


def _progress(command: str, jobs: list[DictConfig], overrides: list[str]) -> AbstractContextManager[Any]:
    """A bar over the jobs of an evaluation, unless a launcher has them run elsewhere."""
    if command != "evaluate" or len(jobs) < 2 or any(word.startswith("hydra/launcher") for word in overrides):
        return nullcontext()
    return progress.Jobs("evaluations", [_cost(cfg) for cfg in jobs])


def _cost(cfg: DictConfig) -> float:
    """What an evaluation takes, in about the time of an image's pass through the network."""
    samples = (cfg.n or 500) * (cfg.sampler.get("steps") or 1) if cfg.metrics else 0
    return float(1000 + samples + (50 * (cfg.likelihood.get("n") or 500) if cfg.likelihood else 0))


def _tell(error: Exception) -> NoReturn:
    """A slip found by a part as it was built reaches us inside of Hydra's own error."""
    slip = error.__cause__ if isinstance(error, InstantiationException) else error
    if isinstance(slip, UserError):
        _stop(str(slip), slip.status)
    if str(error).startswith("Error locating target"):  # a _target_ that is nowhere
        _stop(" ".join(str(error).split()).replace(", set env var HYDRA_FULL_ERROR=1 to see chained exception.", ";"))
    raise error


def _given_folder(overrides: list[str]) -> bool:
    """Whether hydra.run.dir names a folder that is there before we are."""
    given = [word.partition("=")[2] for word in overrides if word.startswith("hydra.run.dir=")]
    return bool(given) and Path(given[-1].strip("'\"")).exists()


def _remove_if_empty(folder: Path) -> None:
    """A run that was refused leaves no folder behind, if nothing but its configuration is in it."""
    if {path.name for path in folder.iterdir()} <= {".hydra", ".lock", "run.json"}:
        shutil.rmtree(folder)
        if folder.parent.parent.name == "outputs" and not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def _extra(said: str) -> str:
    """What to install for a sweeper or launcher of Hydra's that is not there."""
    named = any(f"'hydra/{part}" in said for part in ("sweeper/optuna", "launcher/joblib", "launcher/submitit"))
    return "; pip install 'denoiselab[sweeps]' brings Hydra's plugins for Optuna, joblib and submitit" if named else ""


def _stop(message: str, status: int = 2) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(status)


def check(command: str, overrides: list[str], multirun: bool) -> list[DictConfig]:
    """Every configuration that the command line means, checked before the first is run; none of a search."""
    known: dict[tuple[str, ...], DictConfig] = {}

    def once(words: list[str]) -> DictConfig:
        if tuple(words) not in known:
            known[tuple(words)] = composed(command, words)
        return known[tuple(words)]

    said: dict[str, None] = {}
    jobs: list[DictConfig] = []
    sweep = _sweep(command, overrides, multirun)
    params = [f"{key}={values}" for key, values in ((sweep and sweep.sweeper.params) or {}).items()]
    values = _values([*params, *overrides], multirun or sweep is not None)
    if sweep is not None and studies.searches(sweep):
        _check_search(values, once)
    else:
        for words in map(list, itertools.product(*values.values())):
            checks.check_words(words, CONF, once)
            jobs.append(once(words))
            for told in rules.advice(once(words)):
                said.setdefault(told)
    for told in said if ranks.rank() == 0 and not ranks.started_here() else ():
        print(f"{command}: note: {told}", file=sys.stderr)
    if sweep is not None:
        sweeps.check_folder(sweep, overrides)
    return jobs


def _check_search(values: dict[str, list[str]], once: Callable[[list[str]], DictConfig]) -> None:
    """Each value that a search may propose, beside the first of the others.

    Values that have no meaning together are one failed trial when they are proposed, unless there are no others.
    """
    first = {key: words[0] for key, words in values.items()}
    refused = {}
    tried = {tuple((first | {key: word}).values()) for key, words in values.items() for word in words}
    for words in sorted(tried):
        try:
            checks.check_words(list(words), CONF, once)
        except IncompatibleError as error:
            refused[words] = error
    if len(refused) == len(tried):
        raise next(iter(refused.values()))
    if not once(list(first.values())).get("metrics"):
        raise ConfigError("a search judges by a figure, and metrics=none makes none; take metrics=fid")


def _checked_job(command: str, run: Callable[[], Any]) -> Any:
    """A job of a sweep; what a search proposes could not be checked before."""
    hydra = HydraConfig.get()
    if studies.searches(hydra):
        checks.check_words(list(hydra.overrides.task), CONF, partial(composed, command))
    return run()


def composed(command: str, overrides: list[str], hydra: bool = False) -> DictConfig:
    """A command's configuration with these overrides, before Hydra runs or within its run."""
    if GlobalHydra.instance().is_initialized():
        return _settled(compose(command, overrides, return_hydra_config=hydra))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return _settled(compose(command, overrides, return_hydra_config=hydra))


def _settled(cfg: DictConfig) -> DictConfig:
    """metrics=none stays none, whatever an experiment says of when and of how many images there should be figures."""
    if cfg.get("metrics") and not {"extractor", "evaluation"} & set(cfg.metrics):
        cfg.metrics = {}
    return cfg


def _sweep(command: str, overrides: list[str], multirun: bool) -> DictConfig | None:
    """Hydra's own part of the configuration; None where the command line and what it chooses mean a single run."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    chosen = {override.key_or_group for override in parsed}
    if not multirun and not chosen & {"experiment", "hparams_search", "hydra.mode"}:
        return None
    try:
        words = [override.input_line or "" for override in parsed if not override.is_sweep_override()]
        hydra = composed(command, words, hydra=True).hydra
    except (HydraException, OmegaConfBaseException):
        return None  # the checks that follow say what is wrong
    return hydra if multirun or hydra.mode == RunMode.MULTIRUN else None


def _values(overrides: list[str], multirun: bool) -> dict[str, list[str]]:
    """The overrides of each key, of one key the last: several where it is swept, the ends where that is an interval."""
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
