"""Rules for the sources of samples and data: runs, exact denoisers, folders, samplers and their times."""

import math

from omegaconf import OmegaConf

from denoiselab.assembly.rules.rule import Rule, at, is_a, pure_noise

RULES = (
    Rule(
        lambda cfg: "analytic" in cfg and not cfg.get("run") and not cfg.analytic,
        "run must be given, a trained run's folder: run=<folder>; or take an exact denoiser of the data, which needs "
        "no training: analytic=empirical",
    ),
    Rule(
        lambda cfg: bool(cfg.get("run") and cfg.get("analytic")),
        "run and analytic are two denoisers, and there can be one; take run=<folder> for the trained network or "
        "analytic=<option> for the exact one",
    ),
    Rule(
        lambda cfg: (
            (is_a(cfg.get("data"), "FashionMNIST") or at(cfg.get("data"), "objects") == "fashion_mnist")
            and cfg.data.root is None
        ),
        "data.root must be given, the folder of the four IDX files; take data.root=<folder>: Debian's package "
        "dataset-fashion-mnist installs /usr/share/datasets/fashion-mnist",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("data"), "ImageFolder") and cfg.data.root is None,
        "data.root must be given, the folder of the images, in which a sub-folder is a class; take data.root=<folder>",
    ),
    Rule(
        lambda cfg: (at(cfg.get("sampler"), "s_min") or 0) > (at(cfg.get("sampler"), "s_max") or math.inf),
        "sampler.s_min is above sampler.s_max; take the smaller one first",
    ),
    Rule(
        lambda cfg: (at(cfg.get("spacing"), "T") or math.inf) < (at(cfg.get("sampler"), "steps") or 0),
        "sampler.steps is more than the steps of the spacing, spacing.T; take fewer sampler.steps or spacing=log_snr",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("spacing"), "Custom") and not OmegaConf.is_list(at(cfg.spacing, "times")),
        "spacing=custom must be given its times, descending in (0, 1]: spacing.times=[1,0.6,0.3] sampler.steps=3",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("spacing"), "Custom") and len(cfg.spacing.times) != at(cfg.get("sampler"), "steps"),
        "spacing.times are not sampler.steps in number; give one time a step, without the final 0 "
        "(take sampler.steps=3 with spacing.times=[1,0.6,0.3])",
    ),
    Rule(
        lambda cfg: (
            bool(at(cfg.get("spacing"), "counts")) and sum(cfg.spacing.counts) != at(cfg.get("sampler"), "steps")
        ),
        "spacing.counts do not add up to sampler.steps (take sampler.steps=45 with spacing.counts=[10,15,20])",
    ),
    Rule(
        lambda cfg: pure_noise(cfg) and is_a(cfg.get("sampler"), "Langevin"),
        "sampler=langevin works in x/alpha, and the schedule ends at alpha = 0; "
        "take another sampler, or end the schedule before that with schedule.log_snr_min=-15",
    ),
)
