"""A slip on the command line is told in one line that names the key, what was given and what is allowed."""

from functools import cache

import pytest
from omegaconf import OmegaConf

from denoiselab.cli import checks, limits, run_options
from denoiselab.cli.entry import CONF, check, composed
from denoiselab.errors import ConfigError, IncompatibleError

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("schedul=cosine", ["schedul", "did you mean schedule?"]),
        ("schedule=cosin", ["schedule=cosin", "constant, cosine, edm", "did you mean cosine?"]),
        ("sampler.stps=3", ["sampler.stps", "did you mean sampler.steps?"]),
        ("+sampler.foo=3", ["sampler.foo"]),
        ("sampler.steps=many", ["sampler.steps=many", "whole number", "at least 1"]),
        ("sampler.steps=2.5", ["sampler.steps=2.5", "whole number"]),
        ("sampler.steps=0", ["sampler.steps=0", "at least 1"]),
        ("sampler.steps=null", ["sampler.steps=null", "at least 1"]),
        ("sampler.eta=1.5", ["sampler.eta=1.5", "from 0 to 1"]),
        ("sampler.eta=true", ["sampler.eta=true", "number"]),
        ("optimizer.lr=0", ["optimizer.lr=0", "above 0"]),
        ("optimizer.lr=nan", ["optimizer.lr=nan", "above 0"]),
        ("optimizer.decay=linear", ["optimizer.decay=linear", "cosine or constant"]),
        ("sampler=ddpm sampler.variance=tiny", ["sampler.variance=tiny", "small or large"]),
        ("logger.mode=of", ["logger.mode=of", "offline or online"]),
        ("seed=-1", ["seed=-1", "at least 0"]),
        ("batch_size=0", ["batch_size=0", "at least 1"]),
        ("schedule=linear,cosine", ["schedule=linear,cosine", "-m"]),
        ("schedule=linear schedule.beta_min=30", ["beta_min", "beta_max"]),
        ("spacing=leading sampler.steps=2000", ["sampler.steps", "spacing.T"]),
        ("data=fashion_mnist", ["data.root", "dataset-fashion-mnist"]),
        ("guidance=cfg conditioning=none", ["guidance=cfg", "conditioning=none", "take"]),
        ("guidance=cfg_each", ["one number for each", "conditioning=several", "guidance=cfg"]),
        ("guidance=cfg_each guidance.scales=[a]", ["guidance.scales=['a']", "a number"]),
        ("conditioning=several guidance=cfg_each guidance.scales=[1,2,3]", ["guidance.scales", "one number for each"]),
        (
            "conditioning=several conditioning.drop=0 conditioning.second.drop=0",
            ["conditioning.drop=0", "unconditional"],
        ),
        (
            "conditioning=several conditioning.second.drop=0 guidance=cfg_each guidance.scales=[3,1]",
            ["conditioning.drop=0", "unconditional"],
        ),
        ("sampler=null", ["sampler=None", "ddim, ddpm"]),
        ("backbone.attention=foo", ["backbone.attention=foo", "list"]),
        ("backbone.multipliers=[1,0]", ["backbone.multipliers=[1, 0]", "at least 1"]),
        ("backbone.multipliers=[1,a]", ["backbone.multipliers", "whole number"]),
        ("optimizer.betas=[2,3]", ["optimizer.betas=[2, 3]"]),
        ("callbacks.checkpoint.monitor=fidd", ["monitor=fidd", "headline or fid"]),
        ("callbacks.checkpoint.monitor=precision", ["monitor=precision", "fid or sfid or kid"]),
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
        ("metrics.n=2.5", ["metrics.n=2.5", "a whole number, at least 2"]),
        ("metrics.n=true", ["metrics.n=true", "a whole number"]),
        ("metrics.every=1.5", ["metrics.every=1.5", "not a whole number", "at least 1, or null"]),
        ("metrics.figures.fid.resamples=20.5", ["resamples=20.5", "a whole number"]),
        ("likelihood=bound likelihood.n=2.5", ["likelihood.n=2.5", "a whole number"]),
        ("callbacks.loss_by_log_snr.n=2.5", ["callbacks.loss_by_log_snr.n=2.5", "a whole number"]),
        ("metrics.figures=null", ["metrics.figures=null", "write metrics.figures.fid="]),
        ("metrics=all metrics.figures.kid=nul", ["metrics.figures.kid=nul", "null leaves it out"]),
        ("metrics.figures.fid=x", ["metrics.figures.fid=x", "metrics.figures.fid.resamples=", "null leaves it out"]),
        ("metrics.extractor=null", ["metrics.extractor=null", "write metrics.extractor.cache="]),
        ("metrics.max_seconds=0", ["metrics.max_seconds=0", "above 0"]),
        ("callbacks.loss_by_log_snr.levels=0", ["callbacks.loss_by_log_snr.levels=0", "at least 1"]),
        ("conditioning.drop=0", ["conditioning.drop=0", "take"]),
        ("schedule=flow parameterization=eps", ["alpha = 0", "take", "schedule.log_snr_min"]),
        ("schedule=jsd parameterization=score", ["alpha = 0", "take", "schedule.log_snr_min"]),
        ("schedule=cosine schedule.zero_terminal_snr=true parameterization=eps", ["alpha = 0", "take"]),
        ("schedule=learned", ["schedule=learned", "take loss=vlb"]),
        ("schedule=learned loss=vlb loss.T=10", ["take loss.T=null"]),
        ("schedule=table", ["schedule.betas", "must be given"]),
        ("schedule=table schedule.betas=[0.1,2]", ["schedule.betas=[0.1, 2]", "0 to 1"]),
        ("schedule.shift=0", ["schedule.shift=0", "above 0"]),
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
        ("schedule=scaled_linear schedule.T=null", ["schedule.T=null", "take schedule.T=1000"]),
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
        ("data=image_folder", ["data.root", "sub-folder"]),
        ("trainer=ddp_cpu batch_size=7", ["batch_size", "trainer.devices"]),
        ("sampler.steps=1e1", ["sampler.steps=10.0", "write 10"]),
    ],
)
def test_a_slip_is_told_in_one_line(words, told):
    with pytest.raises(ConfigError) as caught:
        check("train", words.split(), multirun=False)
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
    check("train", words.split(), multirun=False)


@pytest.mark.slow
def test_one_bad_job_of_a_sweep_is_told_before_the_first_job_runs():
    with pytest.raises(IncompatibleError, match="parameterization=eps"):
        check("train", ["schedule=cosine,flow", "parameterization=v,eps"], multirun=True)
    check("train", ["schedule=cosine,linear", "parameterization=v,eps", "seed=range(3)"], multirun=True)


@pytest.mark.slow
def test_a_sweep_of_several_processes_is_accepted_where_each_has_a_share_of_the_batch():
    check("train", ["trainer=ddp_cpu", "seed=0,1"], multirun=True)
    with pytest.raises(IncompatibleError, match="no multiple of trainer"):
        check("train", ["trainer=ddp_cpu", "trainer.devices=2,3"], multirun=True)


@cache  # each takes a quarter of a second, and two tests read them all
def composed_with(group, option):
    if group not in ("analytic", "inpainting"):
        return composed("train", [f"{group}={option}"])
    run_options.register([], lambda: composed("train", []))
    return composed("sample", [f"{group}={option}"])


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_each_number_of_an_option_has_a_limit_that_its_default_keeps(group, option):
    cfg = composed_with(group, option)
    part = dict(checks._leaves(cfg[group], f"{group}.")) if cfg.get(group) else {}
    for key, value in part.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in limits.FREE:
            limit = limits.limit_of(key)
            assert limit is not None, f"{key} has no limit"
            assert limit.allows(value)


@pytest.mark.slow
def test_each_limit_is_that_of_a_key_which_exists():
    configurations = [composed_with(group, option) for group, option in OPTIONS]
    configurations += [OmegaConf.load(CONF / f"{command}.yaml") for command in ("sample", "evaluate")]
    known = {key for cfg in configurations for key, _ in checks._leaves(cfg)}
    known |= {key for cfg in configurations for key in OmegaConf.missing_keys(cfg)}
    assert set(limits.LIMITS) <= known, set(limits.LIMITS) - known


def test_what_is_hardly_meant_is_said_and_not_refused(capsys):
    check("train", ["schedule=edm"], multirun=False)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "spacing=karras" in told[0]
    assert "time_sampling=log_normal" in told[1]
    check("train", ["experiment=edm"], multirun=False)
    assert not capsys.readouterr().err
