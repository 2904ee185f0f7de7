"""python -m denoiselab.tools.wandb_report entity=<name> project=<project> [group=<group>]: our charts in W&B.

Creates a workspace and a report of a project, with the charts of report.py, from the logged runs. Both are built
offline; uploading them needs a network and an account. `pip install -e '.[workspaces]'` installs the library.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from denoiselab.errors import BrokenRunError, ConfigError, UserError
from denoiselab.overrides import pair

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

STEP = "trainer/global_step"
# By class; loss.weighting, since most losses share a class and differ in the weighting.
AXES = ("schedule", "parameterization", "loss.weighting", "time_sampling", "backbone", "sampler", "guidance")
NUMBERS = ("optimizer.lr", "sampler.steps", "guidance.scale", "seed")
FIGURES = ("fid", "floor", "class_accuracy", "bits_per_dim", "nfe", "n", "extractor", "train_seconds", "best/fid")


class Section(NamedTuple):
    """Related panels, their description, and the `job_type` of their runs."""

    name: str
    told: str
    job_type: str
    panels: list[Any]


def sections() -> list[Section]:
    """Build new panels, since a panel belongs to one place."""
    import wandb_workspaces.reports.v2 as wr

    fid = wr.SummaryMetric("fid")
    return [
        Section(
            "Samples",
            "The same seeds at every step and in every run.",
            "train",
            [wr.MediaBrowser(media_keys=["samples"], num_columns=4), wr.MediaBrowser(media_keys=["denoising"])],
        ),
        Section(
            "While training",
            "Of the averaged weights. The floor is the FID of as many real test images; figures of one n alone can be "
            "compared (fid/n).",
            "train",
            [
                wr.LinePlot(title="FID by step", x=STEP, y=["fid", "fid/floor"], log_y=True),
                wr.LinePlot(title="FID by wall time", x="RelativeTime(Process)", y=["fid"], log_y=True),
                wr.LinePlot(title="bits a dimension", x=STEP, y=["val/bits_per_dim"]),
                wr.LinePlot(title="validation loss", x=STEP, y=["val/loss"], log_y=True),
                wr.LinePlot(title="training loss", x=STEP, y=["train/loss"], log_y=True, smoothing_factor=0.6),
                wr.LinePlot(title="class accuracy", x=STEP, y=["class_accuracy"]),
            ],
        ),
        Section(
            "Noise levels",
            "Error and loss by log-SNR, on the same test images and noise for all runs; the bound by log-SNR; the "
            "weight that loss, schedule and times mean together.",
            "train",
            [wr.MediaBrowser(media_keys=[key]) for key in ("loss_by_log_snr", "likelihood", "effective_weight")],
        ),
        Section(
            "Samplers",
            "Evaluations: FID against network evaluations for each sampler, and against the seconds of sampling.",
            "evaluate",
            [
                wr.LinePlot(
                    title="FID by NFE, each sampler",
                    x="nfe",
                    y=["fid"],
                    groupby=wr.Config("sampler._target_"),
                    log_x=True,
                    log_y=True,
                ),
                wr.ScatterPlot(title="FID by NFE, each run", x=wr.SummaryMetric("nfe"), y=fid, log_x=True, log_y=True),
                wr.ScatterPlot(title="FID by seconds", x=wr.SummaryMetric("sampling_seconds"), y=fid, log_y=True),
            ],
        ),
        Section(
            "Guidance",
            "FID against the share of samples that are named as the class asked for; the colour is the scale.",
            "evaluate",
            [
                wr.ScatterPlot(
                    title="FID by class accuracy",
                    x=wr.SummaryMetric("class_accuracy"),
                    y=fid,
                    z=wr.SummaryMetric("guidance.scale"),
                )
            ],
        ),
        Section(
            "All choices",
            "Each line is a run: what was chosen, and what came of it.",
            "train",
            [wr.ParallelCoordinatesPlot(columns=_columns(), layout=wr.Layout(w=24, h=10))],
        ),
    ]


def _columns() -> list["wr.ParallelCoordinatesPlotColumn"]:
    import wandb_workspaces.reports.v2 as wr

    chosen = [wr.ParallelCoordinatesPlotColumn(wr.Config(f"{axis}._target_"), axis) for axis in AXES]
    numbers = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), key) for key in NUMBERS]
    found = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(key), key) for key in ("bits_per_dim", "fid")]
    return [*chosen, *numbers, *found]


def workspace(entity: str, project: str, group: str | None = None) -> "ws.Workspace":
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=_name(group),
        sections=[ws.Section(name=part.name, panels=part.panels, is_open=True) for part in sections()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=30),
        runset_settings=ws.RunsetSettings(
            filters=_filters(group), pinned_columns=["run:displayName", *(f"summary:{key}" for key in FIGURES)]
        ),
    )


def report(entity: str, project: str, group: str | None = None) -> "wr.Report":
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for part in sections():
        runs = wr.Runset(  # the report's own project; naming it would look it up immediately
            name=f"runs of type {part.job_type}",
            filters=_filters(group, part.job_type),
            pinned_columns=["run:displayName", *(f"summary:{key}" for key in FIGURES)],
        )
        blocks += [wr.H2(part.name), wr.P(part.told), wr.PanelGrid(runsets=[runs], panels=part.panels)]
    return wr.Report(entity=entity, project=project, title=_name(group), blocks=blocks, width="fluid")


def _name(group: str | None) -> str:
    return "denoiselab" if group is None else f"denoiselab, {group}"


def _filters(group: str | None, job_type: str | None = None) -> Any:
    import wandb_workspaces.expr as expr

    wanted = {"Group": group, "JobType": job_type}
    terms = [expr.Metric(name) == value for name, value in wanted.items() if value is not None]
    return expr.And(*terms) if terms else ""


def push(entity: str, project: str, group: str | None = None) -> list[str]:
    """Upload both and return their URLs. Raises BrokenRunError if W&B is unreachable or refuses."""
    import wandb

    try:
        wandb.Api(timeout=15)  # otherwise the library prompts for an account, or retries for minutes
        made = [workspace(entity, project, group).save().url, report(entity, project, group).save().url]
    except Exception as error:  # the library raises arbitrary exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenRunError(
            f"W&B did not take the report of {entity}/{project} ({reason}); it takes a network and an account, once: "
            "wandb login"
        ) from error
    return made


def main(arguments: Sequence[str]) -> int:
    """Exit status 0: uploaded; 1: W&B not reachable; 2: invalid arguments."""
    try:
        print("\n".join(push(**_told(arguments))))
    except UserError as error:
        print(f"wandb_report.py: {error}", file=sys.stderr)
        return error.status
    return 0


def _told(arguments: Sequence[str]) -> dict[str, str]:
    """Parse the arguments. Raises ConfigError for unknown or missing ones, or if the library is not installed."""
    told = dict(map(pair, arguments))
    if strange := [word for word in arguments if pair(word)[0] not in ("entity", "project", "group")]:
        raise ConfigError(f"{strange[0]} is not known; allowed: entity=<name> project=<project> group=<group>")
    if missing := [key for key in ("entity", "project") if not told.get(key)]:
        raise ConfigError(f"{missing[0]} must be given: {missing[0]}=<that of your account>, as in W&B's addresses")
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise ConfigError("wandb_workspaces is not installed; pip install -e '.[workspaces]' brings it") from error
    return told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
