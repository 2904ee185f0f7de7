"""Rules for schedules, parameterizations, losses and the trainer."""

import math

from omegaconf import DictConfig, OmegaConf

from denoiselab.assembly.rules.rule import Rule, at, classifies, ends, is_a, pure_noise, samples, sharded

LEARNS = OmegaConf.create({"_target_": "VariationalBound"})  # for commands without a loss, always valid
_TABLES = ("scaled_linear", "sqrt_linear", "constant", "jsd", "VESqrt")


def _shares(cfg: DictConfig) -> int:
    """Return the number of equal parts of a batch: devices and nodes, if given as numbers, times accumulation."""
    trainer = cfg.get("trainer")
    counts = [at(trainer, key) for key in ("devices", "num_nodes", "accumulate_grad_batches")]
    return math.prod(n for n in counts if isinstance(n, int) and n > 0)


PAIRS = (
    Rule(
        lambda cfg: (
            is_a(cfg.get("loss"), "VariationalBound", "CrossEntropy") and "norm" in cfg and not is_a(cfg.norm, "L2")
        ),
        "norm has no meaning with loss=vlb and cross_entropy, which are log-likelihoods; take norm=l2",
    ),
    Rule(
        lambda cfg: (
            is_a(cfg.get("sampler"), "DDPM")
            and cfg.sampler.variance == "learned"
            and "loss" in cfg
            and cfg.loss.get("variance") != "learned"
        ),
        "sampler.variance=learned needs a network that learns it; take loss=hybrid, or sampler.variance=small",
    ),
    Rule(
        lambda cfg: classifies(cfg) and not is_a(cfg.get("conditioning"), "Unconditional"),
        "loss=cross_entropy trains a classifier, which must not be told the class; take conditioning=none",
    ),
    Rule(
        lambda cfg: (
            "loss" in cfg
            and at(cfg.loss, "T") is not None
            and at(cfg.get("time_sampling"), "T") not in (None, cfg.loss.T)
        ),
        "loss.T and time_sampling.T are two numbers of steps; take the same for both, or time_sampling=stratified",
    ),
    Rule(
        lambda cfg: (
            is_a(cfg.get("schedule"), "Learned")
            and str(at(cfg.get("trainer"), "precision")) in ("bf16-true", "16-true")
        ),
        "schedule=learned has numbers that half precision cannot tell apart; take trainer.precision=bf16-mixed",
    ),
    Rule(
        lambda cfg: classifies(cfg) and (bool(cfg.get("metrics")) or bool(cfg.get("likelihood")) or samples(cfg)),
        "loss=cross_entropy trains a classifier, which makes no images; take experiment=noisy_classifier",
    ),
)

RULES = (
    Rule(
        lambda cfg: "batch_size" in cfg and bool(cfg.batch_size % _shares(cfg)),
        "batch_size, which counts the images of a step on all devices, is no multiple of trainer.devices x "
        "trainer.num_nodes x trainer.accumulate_grad_batches; take one that is",
    ),
    Rule(
        lambda cfg: pure_noise(cfg) and is_a(cfg.get("parameterization"), "Eps", "Score"),
        "parameterization=eps and score say nothing about x0 at alpha = 0, where this schedule ends; "
        "take parameterization=v or x0, or end the schedule before that with schedule.log_snr_min=-15",
    ),
    Rule(
        lambda cfg: (
            is_a(cfg.get("parameterization"), "Mean") and is_a(cfg.get("schedule"), "sqrt_linear") and ends(cfg)
        ),
        "parameterization=mean says nothing about x0 where a schedule has ended early and the level stays; "
        "take parameterization=v or x0, or schedule.log_snr_min=null",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("schedule"), "Table") and OmegaConf.is_missing(cfg.schedule, "betas"),
        "schedule.betas must be given, a number in (0, 1] a step; take schedule.betas=[0.01,0.05,0.2,0.5]",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("schedule"), "Learned") and not is_a(cfg.get("loss", LEARNS), "VariationalBound"),
        "schedule=learned is trained by the bound alone: under other weights it would run to the easiest noise levels; "
        "take loss=vlb",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("schedule"), "Learned") and at(cfg.get("loss"), "T") is not None,
        "schedule=learned is trained in continuous time; take loss.T=null",
    ),
    Rule(
        lambda cfg: (
            is_a(cfg.get("loss"), "VariationalBound") and is_a(cfg.get("time_sampling"), "LogNormal", "LogitNormal")
        ),
        "loss=vlb is a sum over uniform times; take time_sampling=stratified, uniform, discrete or loss_second_moment",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("schedule"), *_TABLES) and cfg.schedule.get("T", 1) is None,
        "schedule.T=null, continuous time, is what linear and cosine have; take schedule.T=1000",
    ),
    Rule(
        lambda cfg: sharded(cfg) and is_a(cfg.get("schedule"), "Learned"),
        "schedule=learned has weights of a single number, which trainer=fsdp cannot share out; take trainer=ddp",
    ),
    Rule(
        lambda cfg: sharded(cfg) and bool(cfg.trainer.get("compile") or cfg.trainer.get("channels_last")),
        "trainer.compile and trainer.channels_last change weights and kernels in ways that trainer=fsdp cannot follow; "
        "take false for both, or trainer=ddp",
    ),
    Rule(
        lambda cfg: sharded(cfg) and str(cfg.trainer.get("precision")) in ("64-true", "64", "16-mixed", "16"),
        "trainer.precision of trainer=fsdp is 32-true, bf16-mixed, bf16-true or 16-true; take one, or trainer=ddp",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("schedule"), "Learned") and cfg.schedule.start <= cfg.schedule.end,
        "schedule.start, a log-SNR, is not above schedule.end; take the larger one first",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("loss"), "VariationalBound") and cfg.loss.variance == "learned" and cfg.loss.T is None,
        "loss.variance=learned has a meaning in steps alone; give loss.T=1000, or take loss=hybrid",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("loss"), "Hybrid") and cfg.loss.variance != "learned",
        "loss=hybrid learns the variance; take loss=simple for a fixed one",
    ),
    Rule(
        lambda cfg: classifies(cfg) != is_a(cfg.get("backbone"), "Encoder") and "loss" in cfg,
        "loss=cross_entropy and backbone=encoder make a classifier together, and neither has a meaning without the "
        "other; take experiment=noisy_classifier",
    ),
    Rule(
        lambda cfg: (at(cfg.get("schedule"), "beta_min") or 0) > (at(cfg.get("schedule"), "beta_max") or math.inf),
        "schedule.beta_min is larger than schedule.beta_max; give the smaller one first",
    ),
)
