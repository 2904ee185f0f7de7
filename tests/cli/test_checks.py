"""An error on the command line is one line that names the key, the value given and what is allowed."""

import inspect
import math
from functools import cache
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from conftest import planned
from denoiselab.assembly.configuration import CONF, composed
from denoiselab.cli import checks, limits
from denoiselab.errors import ConfigError, IncompatibleError, InvalidValue
from denoiselab.limits import LISTS, refusal

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("schedul=cosine", ["schedul", "did you mean schedule?"]),
        ("schedule=cosin", ["schedule=cosin does not exist", "constant, cosine, edm", "did you mean cosine?"]),
        ("sampler.stps=3", ["sampler.stps is not an option", "did you mean sampler.steps?", "--help"]),
        ("+sampler.foo=3", ["sampler.foo"]),
        ("sampler.steps=many", ["sampler.steps must be a whole number, at least 1 (got many)"]),
        ("sampler.steps=2.5", ["sampler.steps must be a whole number, at least 1 (got 2.5)"]),
        ("sampler.steps=0", ["sampler.steps must be at least 1 (got 0)"]),
        ("sampler.steps=null", ["sampler.steps must be a whole number, at least 1 (got null)"]),
        ("sampler.eta=1.5", ["sampler.eta must be from 0 to 1 (got 1.5)"]),
        ("sampler.eta=true", ["sampler.eta must be a number, from 0 to 1 (got true)"]),
        ("optimizer.lr=0", ["optimizer.lr must be above 0 (got 0)"]),
        ("optimizer.lr=nan", ["optimizer.lr must be a finite number, above 0 (got nan)"]),
        ("optimizer.decay=linear", ["optimizer.decay must be cosine or constant (got linear)"]),
        (
            "sampler=ddpm sampler.variance=tiny",
            ["sampler.variance must be small, large, interpolated or learned (got tiny)"],
        ),
        ("logger.mode=of", ["logger.mode must be offline or online (got of)"]),
        ("seed=-1", ["seed must be at least 0 (got -1)"]),
        ("batch_size=0", ["batch_size must be at least 1 (got 0)"]),
        ("schedule=linear,cosine", ["schedule=linear,cosine", "-m"]),
        ("schedule=linear schedule.beta_min=30", ["beta_min", "beta_max"]),
        ("spacing=leading sampler.steps=2000", ["sampler.steps", "spacing.T"]),
        ("data=fashion_mnist", ["data.root", "dataset-fashion-mnist"]),
        ("guidance=cfg conditioning=none", ["guidance=cfg", "conditioning=none", "take"]),
        ("guidance=cfg_each", ["one number for each", "conditioning=several", "guidance=cfg"]),
        ("guidance=cfg_each guidance.scales=[a]", ["guidance.scales must be a list, each item a number (got [a])"]),
        ("conditioning=several guidance=cfg_each guidance.scales=[1,2,3]", ["guidance.scales", "one number for each"]),
        (
            "conditioning=several conditioning.drop=0 conditioning.second.drop=0",
            ["conditioning.drop=0", "unconditional"],
        ),
        (
            "conditioning=several conditioning.second.drop=0 guidance=cfg_each guidance.scales=[3,1]",
            ["conditioning.drop=0", "unconditional"],
        ),
        ("sampler=null", ["sampler=null", "ddim, ddpm"]),
        (
            "backbone.attention=foo",
            ["backbone.attention must be a list, each item a whole number, at least 1 (got foo)"],
        ),
        ("backbone.multipliers=[1,0]", ["backbone.multipliers must be a list, each item at least 1 (got [1, 0])"]),
        ("backbone.multipliers=[1,a]", ["backbone.multipliers", "whole number"]),
        ("optimizer.betas=[2,3]", ["optimizer.betas", "(got [2, 3])"]),
        ("callbacks.checkpoint.monitor=fidd", ["monitor", "headline, fid", "(got fidd)"]),
        ("callbacks.checkpoint.monitor=precision", ["monitor", "fid, rfid, sfid, kid", "(got precision)"]),
        (
            "callbacks.checkpoint.monitor=kid",
            ["callbacks.checkpoint.monitor", "take headline", "kid needs metrics=all"],
        ),
        ("callbacks.checkpoint.monitor=kid metrics=all metrics.figures.kid=null", ["callbacks.checkpoint.monitor"]),
        ("callbacks.checkpoint.monitor=cmmd metrics=all", ["callbacks.checkpoint.monitor", "cmmd extractor=clip"]),
        (
            "callbacks.checkpoint.monitor=sfid metrics=all extractor=dinov2 metrics.weights=w",
            ["callbacks.checkpoint.monitor", "sfid extractor=classifier or inception"],
        ),
        ("callbacks.checkpoint.monitor=fid metrics=none", ["callbacks.checkpoint.monitor", "take headline"]),
        ("callbacks.checkpoint.monitor=sliced_wasserstein", ["callbacks.checkpoint.monitor", "take headline"]),
        ("callbacks.checkpoint.monitor=bits_per_dim likelihood=none", ["callbacks.checkpoint.monitor", "a likelihood"]),
        (
            "experiment=points callbacks.checkpoint.monitor=bits_per_dim",
            ["callbacks.checkpoint.monitor", "nats_per_dim"],
        ),
        ("metrics.n=2.5", ["metrics.n must be a whole number, at least 2, or null (got 2.5)"]),
        ("metrics.n=true", ["metrics.n must be a whole number", "(got true)"]),
        ("metrics.every=1.5", ["metrics.every must be a whole number, at least 1, or null (got 1.5)"]),
        ("metrics.figures.fid.resamples=20.5", ["resamples must be a whole number", "(got 20.5)"]),
        ("likelihood=bound likelihood.n=2.5", ["likelihood.n must be a whole number"]),
        ("callbacks.loss_by_log_snr.n=2.5", ["callbacks.loss_by_log_snr.n must be a whole number"]),
        ("metrics.figures=null", ["metrics.figures is a group and cannot be null", "metrics.figures.fid="]),
        (
            "metrics=all metrics.figures.kid=nul",
            ["metrics.figures.kid is a group", "metrics.figures.kid=null leaves it out"],
        ),
        (
            "metrics.figures.fid=x",
            ["cannot be x", "metrics.figures.fid.resamples=", "metrics.figures.fid=null leaves it out"],
        ),
        ("metrics.extractor=null", ["metrics.extractor is a group and cannot be null", "metrics.extractor.cache="]),
        ("metrics.max_seconds=0", ["metrics.max_seconds must be above 0, or null (got 0)"]),
        ("callbacks.loss_by_log_snr.levels=0", ["callbacks.loss_by_log_snr.levels must be at least 1 (got 0)"]),
        ("conditioning.drop=0", ["conditioning.drop=0", "take"]),
        ("schedule=flow parameterization=eps", ["alpha = 0", "take", "schedule.log_snr_min"]),
        ("schedule=jsd parameterization=score", ["alpha = 0", "take", "schedule.log_snr_min"]),
        ("schedule=cosine schedule.zero_terminal_snr=true parameterization=eps", ["alpha = 0", "take"]),
        ("schedule=learned", ["schedule=learned", "take loss=vlb"]),
        ("schedule=learned loss=vlb loss.T=10", ["take loss.T=null"]),
        ("schedule=table", ["schedule.betas", "must be given"]),
        (
            "schedule=table schedule.betas=[0.1,2]",
            ["schedule.betas must be a list, each item above 0 and at most 1 (got [0.1, 2])"],
        ),
        ("schedule.shift=0", ["schedule.shift must be above 0 (got 0)"]),
        ("loss=vlb norm=l1", ["norm", "loss=vlb", "take norm=l2"]),
        ("loss=vlb loss.variance=learned", ["loss.variance=learned", "loss.T=1000"]),
        ("loss=hybrid loss.variance=small", ["loss=hybrid", "take loss=simple"]),
        ("sampler=ddpm sampler.variance=learned", ["sampler.variance=learned", "take loss=hybrid"]),
        ("schedule=flow sampler=langevin", ["sampler=langevin", "alpha = 0", "take"]),
        ("loss=cross_entropy", ["backbone=encoder", "take experiment=noisy_classifier"]),
        ("guidance=classifier", ["guidance.classifier.run must be given", "experiment=noisy_classifier"]),
        ("trainer=fsdp_cpu schedule=learned loss=vlb", ["schedule=learned", "take trainer=ddp"]),
        ("trainer=fsdp_cpu trainer.compile=true", ["trainer.compile", "take false"]),
        ("trainer=fsdp_cpu trainer.channels_last=true", ["trainer.channels_last", "take false"]),
        ("trainer=fsdp_cpu trainer.precision=64-true", ["trainer.precision", "32-true"]),
        ("guidance=autoguidance", ["guidance.weak.run must be given"]),
        ("spacing=custom", ["spacing.times", "sampler.steps=3"]),
        ("spacing=custom spacing.times=[1,0.5] sampler.steps=3", ["spacing.times", "sampler.steps"]),
        ("spacing=sections spacing.counts=[3,4] sampler.steps=8", ["spacing.counts", "sampler.steps"]),
        ("schedule=scaled_linear schedule.T=null", ["schedule.T must be a whole number, at least 2 (got null)"]),
        ("loss=vlb time_sampling=log_normal", ["loss=vlb", "take time_sampling=stratified"]),
        ("loss=vlb loss.T=100 time_sampling=discrete", ["loss.T", "time_sampling.T"]),
        ("schedule=learned loss=vlb schedule.end=20", ["schedule.start", "schedule.end"]),
        ("schedule=learned loss=vlb trainer.precision=bf16-true", ["schedule=learned", "bf16-mixed"]),
        ("guidance=cfg_interval guidance.sigma_low=9", ["guidance.sigma_low", "guidance.sigma_high"]),
        ("sampler=heun sampler.s_min=3 sampler.s_max=1", ["sampler.s_min", "sampler.s_max"]),
        ("experiment=noisy_classifier conditioning=class", ["loss=cross_entropy", "take conditioning=none"]),
        (
            "experiment=points data=moons conditioning=class guidance=cfg_rescale",
            ["guidance.rescale", "take guidance=cfg"],
        ),
        ("experiment=few_steps metrics=none", ["metrics=none", "take metrics=fid"]),
        ("~schedule", ["~schedule", "~callbacks.samples"]),
        ("~sampler.steps", ["~sampler.steps", "~callbacks.samples"]),
        ("~seed", ["~seed"]),
        ("hydra.run.dir=", ["hydra.run.dir is empty"]),
        ("cache=", ["cache is empty"]),
        ("data=image_folder data.root=", ["data.root is empty"]),
        ("seed=1.5", ["seed must be a whole number, at least 0 (got 1.5)"]),
        ("cache=3", ["cache must be text (got 3)"]),
        ("trainer.compile=3", ["trainer.compile must be true or false (got 3)"]),
        ("data.size=12", ["data.size must be a multiple of 8, from 8 to 256 (got 12)"]),
        ("data=image_folder", ["data.root", "sub-folder"]),
        ("trainer=ddp_cpu batch_size=7", ["batch_size", "trainer.devices"]),
        ("sampler.steps=1e1", ["sampler.steps must be a whole number, at least 1 (got 10.0); write 10"]),
    ],
)
def test_an_error_is_one_line(words, told):
    with pytest.raises(ConfigError) as caught:
        planned(words.split())
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in told), message


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "",
        "schedule=cosine sampler=ddim",
        "schedule=flow parameterization=eps schedule.log_snr_min=-15",
        "guidance=cfg guidance.scale=1 conditioning=none",
        "conditioning=several conditioning.first.drop=0 conditioning.second.drop=0",
        "schedule=linear schedule.T=null",
        "trainer.gradient_clip_val=null callbacks.samples.every=null",
        "trainer.devices=[0,1]",
        "optimizer.lr=1",
        "backbone.multipliers=[1,2,2]",
        "~callbacks.samples",
        "~callbacks.checkpoint",
        "metrics=none likelihood=none",
        "metrics.max_seconds=null",
        "metrics.figures.class_accuracy=null",
        "metrics.figures.fid={resamples:20}",
        "callbacks.samples=null",
        "metrics.max_seconds=0.5",
        "metrics.max_seconds=300",
        "callbacks.checkpoint.monitor=val/loss metrics=none",
        "callbacks.checkpoint.monitor=bits_per_dim",
        "experiment=points callbacks.checkpoint.monitor=nats_per_dim",
        "callbacks.checkpoint.monitor=kid metrics=all",
        "callbacks.checkpoint.monitor=sfid metrics=all",
        "callbacks.checkpoint.monitor=cmmd metrics=all extractor=clip metrics.weights=w",
        "callbacks.checkpoint.monitor=null",
        "hydra.run.dir=elsewhere",
        "++sampler.steps=3",
    ],
)
def test_what_has_a_meaning_is_accepted(words):
    planned(words.split())


@pytest.mark.slow
def test_one_bad_job_of_a_sweep_is_told_before_the_first_job_runs():
    with pytest.raises(IncompatibleError, match="parameterization=eps"):
        planned(["schedule=cosine,flow", "parameterization=v,eps"], multirun=True)
    planned(["schedule=cosine,linear", "parameterization=v,eps", "seed=range(3)"], multirun=True)


@pytest.mark.slow
def test_a_sweep_of_several_processes_is_accepted_where_each_has_a_share_of_the_batch():
    planned(["trainer=ddp_cpu", "seed=0,1"], multirun=True)
    with pytest.raises(IncompatibleError, match="no multiple of trainer"):
        planned(["trainer=ddp_cpu", "trainer.devices=2,3"], multirun=True)


@cache  # each takes a quarter of a second, and two tests read them all
def composed_with(group, option):
    return composed("sample" if group in ("analytic", "inpainting") else "train", [f"{group}={option}"])


def outside(hint):
    """Values that a type hint just leaves out, one for each text that says what is allowed."""
    origin, parts = get_origin(hint), get_args(hint)
    values = ["nonsense", True, math.nan]
    if origin is Annotated:
        for limit in hint.__metadata__:
            low, high = limit.low, limit.high
            away = 1 if limit.whole else 0
            values += [low if limit.above else low - away or math.nextafter(low, -math.inf)] if low > -math.inf else []
            values += (
                [high if limit.below else high + away or math.nextafter(high, math.inf)] if high < math.inf else []
            )
            values += [max(low, 0) + 0.5] if limit.whole else []
            values += [low + 1] if limit.multiple > 1 else []
    elif origin in (Union, UnionType):
        values += [value for part in parts for value in outside(part)]
    elif origin in LISTS:
        values += [[value] for value in outside(parts[0])]
    return [*{text: value for value in values if (text := refusal(hint, value)) is not None}.values()]


NEEDED = {"betas": [0.1, 0.2], "num_classes": 10}  # what options leave to the user or the data


def part_with(node, name, value):
    """The part of these options, with one of another value."""
    target = get_object(node._target_)
    given = OmegaConf.to_container(node, resolve=True)
    taken = inspect.signature(target).parameters
    needed = {key: NEEDED.get(key) for key, p in taken.items() if p.default is p.empty and p.kind != p.VAR_KEYWORD}
    plain = {
        key: item
        for key, item in given.items()
        if key[0] != "_" and not isinstance(item, dict | None) and item != "???"
    }
    return target(**needed | plain | {name: value})


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_keeps_its_limits_and_what_is_outside_is_refused_alike_by_the_command_line_and_the_part(
    group, option
):
    cfg = composed_with(group, option)
    limited = [row for row in checks.limits(cfg) if row[0].startswith(f"{group}.")]
    for key in checks._keys(cfg[group], f"{group}.") if cfg.get(group) else ():
        number = isinstance(value := OmegaConf.select(cfg, key), int | float) and not isinstance(value, bool)
        assert not number or key in (*limits.FREE, *(row[0] for row in limited)), f"{key} has no limit"
    for key, value, hint in limited:
        assert value is None or refusal(hint, value) is None
        assert outside(hint)
        node, name = OmegaConf.select(cfg, key.rpartition(".")[0]), key.rpartition(".")[2]
        for wrong in outside(hint):
            OmegaConf.update(cfg, key, wrong)
            with pytest.raises(InvalidValue) as said:
                checks.check_values(cfg, cfg)
            OmegaConf.update(cfg, key, value)
            assert str(said.value).startswith(f"{key} must be {said.value.allowed} (got ")
            if key not in limits.LIMITS:
                with pytest.raises(InvalidValue) as made:
                    part_with(node, name, wrong)
                assert str(made.value.at(key.rpartition(".")[0])) == str(said.value)


@pytest.mark.slow
def test_each_limit_is_that_of_a_key_which_exists():
    configurations = [composed_with(group, option) for group, option in OPTIONS]
    configurations += [OmegaConf.load(CONF / f"{command}.yaml") for command in ("sample", "evaluate")]
    known = {key for cfg in configurations for key in checks._keys(cfg)}
    known |= {key for cfg in configurations for key in OmegaConf.missing_keys(cfg)}
    assert set(limits.LIMITS) <= known, set(limits.LIMITS) - known


def test_what_is_hardly_meant_is_said_and_not_refused(capsys):
    planned(["schedule=edm"])
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "spacing=karras" in told[0]
    assert "time_sampling=log_normal" in told[1]
    planned(["experiment=edm"])
    assert not capsys.readouterr().err
