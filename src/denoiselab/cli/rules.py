"""Combinations of options without a meaning, and advice on some that have one, told without torch.

A rule only says early what the parts themselves refuse when they are built; CONFIG_RULES are between parts that do not
see each other, so build.parts refuses by them too.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from denoiselab.errors import IncompatibleError


class Rule(NamedTuple):
    """A combination without meaning."""

    broken: Callable[[DictConfig], bool]
    reason: str


def _is(part: DictConfig | None, *names: str) -> bool:
    return part is not None and str(part.get("_target_")).rpartition(".")[2] in names


def _part(part: DictConfig | None, key: str) -> Any:
    return None if part is None else OmegaConf.select(part, key)


def _pure_noise(cfg: DictConfig) -> bool:
    """Whether the schedule ends at alpha = 0 exactly."""
    if _ends(cfg):
        return False
    return _is(cfg.get("schedule"), "Flow", "jsd") or bool(_part(cfg.get("schedule"), "zero_terminal_snr"))


_TABLES = ("scaled_linear", "sqrt_linear", "constant", "jsd", "VESqrt")


def _ends(cfg: DictConfig) -> bool:
    return _part(cfg.get("schedule"), "log_snr_min") is not None


def _shares(cfg: DictConfig) -> int:
    """Into how many equal parts a batch falls: devices, where they are asked for by number, times accumulated parts."""
    trainer = cfg.get("trainer")
    counts = [_part(trainer, key) for key in ("devices", "num_nodes", "accumulate_grad_batches")]
    return math.prod(n for n in counts if isinstance(n, int) and n > 0)


def _sharded(cfg: DictConfig) -> bool:
    return _part(cfg.get("trainer"), "strategy") == "fsdp"


def _classifies(cfg: DictConfig) -> bool:
    return _is(cfg.get("loss"), "CrossEntropy")


def trains_codec(cfg: DictConfig) -> bool:
    return _is(cfg.get("loss"), "Autoencoding")


def _latent(cfg: DictConfig) -> bool:
    """Whether what is diffused, or decoded, are latents."""
    return _is(cfg.get("codec"), "KL", "VQ", "Latents", "diffusers")


LEARNS = OmegaConf.create({"_target_": "VariationalBound"})  # where no loss is chosen, none is wrong


def _guides(cfg: DictConfig) -> bool:
    if _is(cfg.get("guidance"), "ClassifierFreeEach"):
        return any(scale != 1 for scale in cfg.guidance.scales)
    return _is(cfg.get("guidance"), "ClassifierFree") and cfg.guidance.scale != 1


def conditions(cfg: DictConfig) -> list[DictConfig]:
    """The parts of the conditioning, in their order."""
    told: DictConfig | None = cfg.get("conditioning")
    if told is None or not _is(told, "Several"):
        return [] if told is None else [told]
    return [part for part in told.values() if isinstance(part, DictConfig)]


def _points(cfg: DictConfig) -> bool:
    return _is(cfg.get("data"), "Points")


def _draws(cfg: DictConfig, *names: str) -> bool:
    return any(_is(part, *names) for part in (cfg.get("callbacks") or {}).values())


def _samples(cfg: DictConfig) -> bool:
    return _draws(cfg, "SampleGrid", "DenoisingStrip", "PointScatter", "PointProcess", "FewSteps")


def _unseen(cfg: DictConfig) -> bool:
    """Whether checkpoints are to be judged by a figure that this run does not find."""
    monitor = _part(cfg.get("callbacks"), "checkpoint.monitor")
    found = {None, "headline", "val/loss"}
    if cfg.get("likelihood"):
        found.add("nats_per_dim" if _points(cfg) else "bits_per_dim")
    if metrics := cfg.get("metrics"):
        points = {"sliced_wasserstein": True} if _is(metrics.get("evaluation"), "PointEvaluation") else {}
        found |= {name for name, figure in metrics.get("figures", points).items() if figure}
        if "fid" in found and _latent(cfg):
            found.add("rfid")
        if _looks(cfg, "trained_classifier", "inception", "dinov2"):  # whose features are not of unit length
            found -= {"cmmd"}
        if _looks(cfg, "dinov2", "clip"):  # which have no features at each place
            found -= {"sfid"}
    return monitor not in found


def _looks(cfg: DictConfig, *names: str) -> bool:
    """Whether figures look through one of these extractors."""
    return _is(_part(cfg.get("metrics"), "extractor"), *names)


_IMAGES = ("SuperResolution", "Colourisation", "Inpainting", "Segmentation", "Layout", "LayoutChannels")


def _plain(cfg: DictConfig) -> bool:
    """Whether the data are known to be images and labels alone."""
    return _is(cfg.get("data"), "Digits", "FashionMNIST", "ImageFolder")


def untold(key: str, have: str) -> str:
    return f"this conditioning needs {key}, and {have} none; take data=composition, or conditioning=class"


def _reads(cfg: DictConfig) -> bool:
    """Whether some of the condition is told in words."""
    return any(_is(part, "Text") for part in conditions(cfg))


_ALL = "; experiment=points takes all that points need"
_LATENT = "; experiment=latent takes all that latents need"

# What the parts themselves cannot see, as it is between them.
CONFIG_RULES = (
    Rule(
        lambda cfg: _points(cfg) and _is(cfg.get("backbone"), "UNet", "DiT", "JiT", "Encoder"),
        "backbone=unet, dit and jit see images, and these data are points; take backbone=mlp or relu_mlp" + _ALL,
    ),
    Rule(
        lambda cfg: _points(cfg) and _reads(cfg),
        "conditioning=text tells what an image shows, and these data are points; take conditioning=class or none"
        + _ALL,
    ),
    Rule(
        lambda cfg: _points(cfg) and "codec" in cfg and not _is(cfg.codec, "Identity"),
        "codec encodes images, and these data are points; take codec=identity" + _ALL,
    ),
    Rule(
        lambda cfg: "loss" in cfg and _is(cfg.get("codec"), "KL", "VQ") and not trains_codec(cfg),
        "codec=kl and vq are trained by loss=autoencoder, in experiment=autoencoder and vq; to diffuse in the latents "
        "of a trained one give its run: experiment=latent codec.run=<folder>",
    ),
    Rule(
        lambda cfg: trains_codec(cfg) and "codec" in cfg and not _is(cfg.codec, "KL", "VQ"),
        "loss=autoencoder trains a codec, and this one is not to be trained; take experiment=autoencoder or vq",
    ),
    Rule(
        lambda cfg: (
            "loss" in cfg and "backbone" in cfg and trains_codec(cfg) != _is(cfg.get("backbone"), "StandardNormal")
        ),
        "loss=autoencoder trains a codec and no denoiser, so that backbone=none belongs to it, and to it alone; take "
        "experiment=autoencoder or vq for the codec, experiment=latent for a diffusion in its latents",
    ),
    Rule(
        lambda cfg: trains_codec(cfg) and "conditioning" in cfg and not _is(cfg.get("conditioning"), "Unconditional"),
        "loss=autoencoder trains a codec, which is told nothing; take conditioning=none guidance=none, as "
        "experiment=autoencoder does",
    ),
    Rule(
        lambda cfg: "loss" in cfg and _is(cfg.get("sampler"), "Prior") and not trains_codec(cfg),
        "sampler=prior decodes noise as it is, which is how an autoencoder is sampled and no diffusion; take "
        "sampler=ddim",
    ),
    Rule(
        lambda cfg: len({part.get("_target_") for part in conditions(cfg)}) < len(conditions(cfg)),
        "conditioning=several tells the same in both of its parts; take another for one of them, as in "
        "conditioning@conditioning.second=text",
    ),
    Rule(
        lambda cfg: _is(cfg.get("sampler"), "Prior") and bool(cfg.get("inpainting")),
        "inpainting acts in the steps of a sampler, and sampler=prior has none; take inpainting=none, or the run of a "
        "diffusion",
    ),
    Rule(
        lambda cfg: "sampler" in cfg and trains_codec(cfg) and not _is(cfg.sampler, "Prior"),
        "an autoencoder's samples are decoded from its prior, which no denoiser makes; take sampler=prior",
    ),
    Rule(
        lambda cfg: trains_codec(cfg) and _is(cfg.get("schedule"), "VE", "VESqrt", "EDM"),
        "an autoencoder has no use for a schedule, and this one's noise has not variance 1, as its prior has; leave "
        "schedule out",
    ),
    Rule(
        lambda cfg: _is(cfg.get("data"), "Composition") and any(_is(part, "Text") for part in conditions(cfg)),
        "captions tell of one object, and data=composition has several in each scene; take conditioning=layout, or "
        "another data set",
    ),
    Rule(
        lambda cfg: _is(cfg.get("sampler"), "Prior") and _draws(cfg, "DenoisingStrip"),
        "sampler=prior denoises nothing, and callbacks=default draws how it is done; take callbacks=autoencoder",
    ),
    Rule(
        lambda cfg: trains_codec(cfg) and _sharded(cfg),
        "loss=autoencoder trains small networks, which trainer=fsdp cannot share out; take trainer=ddp",
    ),
    Rule(
        lambda cfg: _latent(cfg) and bool(cfg.get("threshold")),
        "threshold limits x0 to the range of images, [-1, 1], which is not that of latents; take threshold=none"
        + _LATENT,
    ),
    Rule(
        lambda cfg: _latent(cfg) and bool(cfg.get("likelihood")),
        "likelihood=bound and ode are of what is diffused, and bits of latents are not those of images; take "
        "likelihood=none" + _LATENT,
    ),
    Rule(
        lambda cfg: (
            _latent(cfg)
            and (_is(cfg.get("loss"), "Hybrid") or _part(cfg.get("loss"), "T") or _is(cfg.get("schedule"), "Learned"))
        ),
        "the bound in steps ends with a decoder of 256 levels, which images have and latents have not; take a loss "
        "without loss.T and a schedule that is not learned",
    ),
    Rule(
        lambda cfg: _points(cfg) and bool(cfg.get("threshold")),
        "threshold limits x0 to the range of images, [-1, 1], which is not that of points; take threshold=none" + _ALL,
    ),
    Rule(
        lambda cfg: _points(cfg) and "extractor" in (cfg.get("metrics") or {}),
        "metrics=fid looks at images, and these data are points; take metrics=points or none" + _ALL,
    ),
    Rule(
        lambda cfg: _looks(cfg, "trained_classifier") and _part(cfg.get("metrics"), "weights") is not None,
        "metrics.weights are those of a network that others have trained, and extractor=classifier is trained on the "
        "data; take extractor=inception, dinov2 or clip, or leave metrics.weights out",
    ),
    Rule(
        lambda cfg: _points(cfg) and _draws(cfg, "SampleGrid", "DenoisingStrip"),
        "callbacks=default draws images, and these data are points; take callbacks=points" + _ALL,
    ),
    Rule(
        lambda cfg: not _points(cfg) and _is(_part(cfg.get("metrics"), "evaluation"), "PointEvaluation"),
        "metrics=points compares points in the plane, and these data are images; take metrics=fid or none",
    ),
    Rule(
        lambda cfg: not _points(cfg) and _draws(cfg, "PointScatter", "PointProcess"),
        "callbacks=points draws points in the plane, and these data are images; take callbacks=default",
    ),
    Rule(
        lambda cfg: (
            _points(cfg)
            and (_is(cfg.get("loss"), "Hybrid") or _part(cfg.get("loss"), "T") or _is(cfg.get("schedule"), "Learned"))
        ),
        "the bound in steps ends with a decoder of 256 levels, which images have and points have not; "
        "take loss=vlb loss.T=null and a schedule that is not learned",
    ),
    Rule(
        lambda cfg: (
            _is(cfg.get("loss"), "VariationalBound", "CrossEntropy") and "norm" in cfg and not _is(cfg.norm, "L2")
        ),
        "norm has no meaning with loss=vlb and cross_entropy, which are log-likelihoods; take norm=l2",
    ),
    Rule(
        lambda cfg: (
            _is(cfg.get("sampler"), "DDPM")
            and cfg.sampler.variance == "learned"
            and "loss" in cfg
            and cfg.loss.get("variance") != "learned"
        ),
        "sampler.variance=learned needs a network that learns it; take loss=hybrid, or sampler.variance=small",
    ),
    Rule(
        lambda cfg: bool(cfg.get("inpainting") and cfg.get("invert")),
        "invert=true goes to noise and back from whole images, and inpainting has a part of one; take inpainting=none",
    ),
    Rule(
        lambda cfg: bool(cfg.get("inpainting")) and _points(cfg),
        "inpainting keeps pixels of images, and these data are points; take inpainting=none",
    ),
    Rule(
        lambda cfg: bool(cfg.get("inpainting")) and any(_is(part, "Inpainting") for part in conditions(cfg)),
        "inpainting is for models that were not trained to inpaint, and conditioning=inpainting has masks of its own; "
        "take inpainting=none",
    ),
    Rule(
        lambda cfg: (_part(cfg.get("inpainting"), "jump") or 0) >= (_part(cfg.get("sampler"), "steps") or math.inf),
        "inpainting.jump goes back to before the first of the sampler's steps; take a jump below sampler.steps",
    ),
    Rule(
        lambda cfg: _points(cfg) and any(_is(part, *_IMAGES) for part in conditions(cfg)),
        "this conditioning tells images, and these data are points; take conditioning=none" + _ALL,
    ),
    Rule(
        lambda cfg: _plain(cfg) and any(_is(part, "Segmentation") for part in conditions(cfg)),
        untold("segmentation", "these data have"),
    ),
    Rule(
        lambda cfg: _plain(cfg) and any(_is(part, "Layout", "LayoutChannels") for part in conditions(cfg)),
        untold("boxes", "these data have"),
    ),
    Rule(
        lambda cfg: _guides(cfg) and _is(cfg.get("conditioning"), "Unconditional"),
        "guidance=cfg needs a condition to strengthen, and conditioning=none gives none; "
        "take guidance=none or conditioning=class",
    ),
    Rule(
        lambda cfg: (
            _is(cfg.get("guidance"), "ClassifierFreeEach")
            and ("conditioning" in cfg and len(cfg.guidance.scales) != len(conditions(cfg)))
        ),
        "guidance=cfg_each has a scale for each part of the condition, and guidance.scales are not as many; take "
        "conditioning=several, which has parts, and one number for each, or guidance=cfg",
    ),
    Rule(
        lambda cfg: _guides(cfg) and any(_part(part, "drop") == 0 for part in conditions(cfg)),
        "guidance=cfg needs the unconditional model, which conditioning.drop=0 never trains; "
        "take conditioning.drop=0.1 or guidance=none",
    ),
    Rule(
        lambda cfg: _points(cfg) and bool(_part(cfg.get("guidance"), "rescale")),
        "guidance.rescale goes by the spread of an image's pixels, which points have not; take guidance=cfg",
    ),
    Rule(
        lambda cfg: _classifies(cfg) and not _is(cfg.get("conditioning"), "Unconditional"),
        "loss=cross_entropy trains a classifier, which must not be told the class; take conditioning=none",
    ),
    Rule(
        lambda cfg: (
            "loss" in cfg
            and _part(cfg.loss, "T") is not None
            and _part(cfg.get("time_sampling"), "T") not in (None, cfg.loss.T)
        ),
        "loss.T and time_sampling.T are two numbers of steps; take the same for both, or time_sampling=stratified",
    ),
    Rule(
        lambda cfg: (
            _is(cfg.get("schedule"), "Learned")
            and str(_part(cfg.get("trainer"), "precision")) in ("bf16-true", "16-true")
        ),
        "schedule=learned has numbers that half precision cannot tell apart; take trainer.precision=bf16-mixed",
    ),
    Rule(
        lambda cfg: _draws(cfg, "FewSteps") and not cfg.get("metrics"),
        "experiment=few_steps compares samplers by a figure, and metrics=none has none; take metrics=fid",
    ),
    Rule(
        lambda cfg: _classifies(cfg) and (bool(cfg.get("metrics")) or bool(cfg.get("likelihood")) or _samples(cfg)),
        "loss=cross_entropy trains a classifier, which makes no images; take experiment=noisy_classifier",
    ),
)

RULES = (
    Rule(
        lambda cfg: cfg.get("prompt") is not None and bool(cfg.get("analytic")),
        "prompt is read by a trained network, and analytic=<option> is an exact denoiser; take run=<folder>, a run of "
        "experiment=text, or leave prompt out",
    ),
    Rule(
        lambda cfg: bool(cfg.get("invert")) and not (cfg.get("prompt") is None and cfg.get("negative") is None),
        "prompt and negative say what new images are to show, and invert=true encodes those of the data; take one of "
        "them",
    ),
    Rule(
        lambda cfg: cfg.get("prompt") is not None and _is(cfg.get("guidance"), "Classifier", "Autoguidance"),
        "guidance=classifier and autoguidance lead to a class, and a prompt is of none; take guidance=cfg, or "
        "classes=[...] in place of prompt",
    ),
    Rule(
        lambda cfg: (
            cfg.get("negative") is not None and not (_is(cfg.get("guidance"), "ClassifierFree") and _guides(cfg))
        ),
        "negative is what guidance=cfg leads away from, and there is none here; take guidance=cfg guidance.scale=3",
    ),
    Rule(
        lambda cfg: any(
            _is(_part(part, "encoder"), "of_folder") and _part(part, "encoder.folder") is None
            for part in conditions(cfg)
        ),
        "conditioning.encoder.folder must be given, that of a text encoder which transformers has saved, such as CLIP "
        "or T5; take conditioning.encoder.folder=<folder>, or conditioning=text, which needs none",
    ),
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
        lambda cfg: _is(cfg.get("data"), "Digits") and bool((_part(cfg.data, "size") or 8) % 8),
        "data.size of digits, which are enlarged from 8 pixels a side, is no multiple of 8; take data.size=16 or 32",
    ),
    Rule(
        lambda cfg: (
            (_is(cfg.get("data"), "FashionMNIST") or _part(cfg.get("data"), "objects") == "fashion_mnist")
            and cfg.data.root is None
        ),
        "data.root must be given, the folder of the four IDX files; take data.root=<folder>: Debian's package "
        "dataset-fashion-mnist installs /usr/share/datasets/fashion-mnist",
    ),
    Rule(
        lambda cfg: _is(cfg.get("data"), "ImageFolder") and cfg.data.root is None,
        "data.root must be given, the folder of the images, in which a sub-folder is a class; take data.root=<folder>",
    ),
    Rule(
        lambda cfg: _is(cfg.get("codec"), "Latents") and not cfg.codec.run,
        "codec.run must be given, the folder of a run of experiment=autoencoder or vq; take codec.run=<folder>",
    ),
    Rule(
        lambda cfg: _is(cfg.get("codec"), "diffusers") and not cfg.codec.folder,
        "codec.folder must be given, the folder of an AutoencoderKL of diffusers; take codec.folder=<folder>",
    ),
    Rule(
        lambda cfg: _looks(cfg, "dinov2", "clip") and _part(cfg.get("metrics"), "weights") is None,
        "metrics.weights must be given, the folder of a model of transformers; take metrics.weights=<folder>, or "
        "extractor=classifier, which needs none",
    ),
    Rule(
        lambda cfg: "batch_size" in cfg and bool(cfg.batch_size % _shares(cfg)),
        "batch_size, which counts the images of a step on all devices, is no multiple of trainer.devices x "
        "trainer.num_nodes x trainer.accumulate_grad_batches; take one that is",
    ),
    Rule(
        lambda cfg: _pure_noise(cfg) and _is(cfg.get("parameterization"), "Eps", "Score"),
        "parameterization=eps and score say nothing about x0 at alpha = 0, where this schedule ends; "
        "take parameterization=v or x0, or end the schedule before that with schedule.log_snr_min=-15",
    ),
    Rule(
        lambda cfg: _is(cfg.get("parameterization"), "Mean") and _is(cfg.get("schedule"), "sqrt_linear") and _ends(cfg),
        "parameterization=mean says nothing about x0 where a schedule has ended early and the level stays; "
        "take parameterization=v or x0, or schedule.log_snr_min=null",
    ),
    Rule(
        lambda cfg: _is(cfg.get("schedule"), "Table") and OmegaConf.is_missing(cfg.schedule, "betas"),
        "schedule.betas must be given, a number in (0, 1] a step; take schedule.betas=[0.01,0.05,0.2,0.5]",
    ),
    Rule(
        lambda cfg: _is(cfg.get("schedule"), "Learned") and not _is(cfg.get("loss", LEARNS), "VariationalBound"),
        "schedule=learned is trained by the bound alone: under other weights it would run to the easiest noise levels; "
        "take loss=vlb",
    ),
    Rule(
        lambda cfg: _is(cfg.get("schedule"), "Learned") and _part(cfg.get("loss"), "T") is not None,
        "schedule=learned is trained in continuous time; take loss.T=null",
    ),
    Rule(
        lambda cfg: (
            _is(cfg.get("loss"), "VariationalBound") and _is(cfg.get("time_sampling"), "LogNormal", "LogitNormal")
        ),
        "loss=vlb is a sum over uniform times; take time_sampling=stratified, uniform, discrete or loss_second_moment",
    ),
    Rule(
        lambda cfg: _is(cfg.get("schedule"), *_TABLES) and cfg.schedule.get("T", 1) is None,
        "schedule.T=null, continuous time, is what linear and cosine have; take schedule.T=1000",
    ),
    Rule(
        lambda cfg: _sharded(cfg) and _is(cfg.get("schedule"), "Learned"),
        "schedule=learned has weights of a single number, which trainer=fsdp cannot share out; take trainer=ddp",
    ),
    Rule(
        lambda cfg: _sharded(cfg) and bool(cfg.trainer.get("compile") or cfg.trainer.get("channels_last")),
        "trainer.compile and trainer.channels_last change weights and kernels in ways that trainer=fsdp cannot follow; "
        "take false for both, or trainer=ddp",
    ),
    Rule(
        lambda cfg: _sharded(cfg) and str(cfg.trainer.get("precision")) in ("64-true", "64", "16-mixed", "16"),
        "trainer.precision of trainer=fsdp is 32-true, bf16-mixed, bf16-true or 16-true; take one, or trainer=ddp",
    ),
    Rule(
        lambda cfg: _is(cfg.get("schedule"), "Learned") and cfg.schedule.start <= cfg.schedule.end,
        "schedule.start, a log-SNR, is not above schedule.end; take the larger one first",
    ),
    Rule(
        lambda cfg: (
            _part(cfg.get("guidance"), "sigma_high") is not None and cfg.guidance.sigma_low >= cfg.guidance.sigma_high
        ),
        "guidance.sigma_low is not below guidance.sigma_high; take the smaller one first",
    ),
    Rule(
        lambda cfg: (_part(cfg.get("sampler"), "s_min") or 0) > (_part(cfg.get("sampler"), "s_max") or math.inf),
        "sampler.s_min is above sampler.s_max; take the smaller one first",
    ),
    Rule(
        lambda cfg: _is(cfg.get("loss"), "VariationalBound") and cfg.loss.variance == "learned" and cfg.loss.T is None,
        "loss.variance=learned has a meaning in steps alone; give loss.T=1000, or take loss=hybrid",
    ),
    Rule(
        lambda cfg: _is(cfg.get("loss"), "Hybrid") and cfg.loss.variance != "learned",
        "loss=hybrid learns the variance; take loss=simple for a fixed one",
    ),
    Rule(
        lambda cfg: _classifies(cfg) != _is(cfg.get("backbone"), "Encoder") and "loss" in cfg,
        "loss=cross_entropy and backbone=encoder make a classifier together, and neither has a meaning without the "
        "other; take experiment=noisy_classifier",
    ),
    Rule(
        lambda cfg: _is(cfg.get("guidance"), "Classifier") and not cfg.guidance.classifier.run,
        "guidance.classifier.run must be given, the folder of a run of experiment=noisy_classifier; take "
        "guidance.classifier.run=<folder>",
    ),
    Rule(
        lambda cfg: _is(cfg.get("guidance"), "Autoguidance") and not cfg.guidance.weak.run,
        "guidance.weak.run must be given, the folder of a run of a smaller or less trained model; take "
        "guidance.weak.run=<folder>",
    ),
    Rule(
        lambda cfg: (_part(cfg.get("spacing"), "T") or math.inf) < (_part(cfg.get("sampler"), "steps") or 0),
        "sampler.steps is more than the steps of the spacing, spacing.T; take fewer sampler.steps or spacing=log_snr",
    ),
    Rule(
        lambda cfg: _is(cfg.get("spacing"), "Custom") and not OmegaConf.is_list(_part(cfg.spacing, "times")),
        "spacing=custom must be given its times, descending in (0, 1]: spacing.times=[1,0.6,0.3] sampler.steps=3",
    ),
    Rule(
        lambda cfg: _is(cfg.get("spacing"), "Custom") and len(cfg.spacing.times) != _part(cfg.get("sampler"), "steps"),
        "spacing.times are not sampler.steps in number; give one time a step, without the final 0 "
        "(take sampler.steps=3 with spacing.times=[1,0.6,0.3])",
    ),
    Rule(
        lambda cfg: (
            bool(_part(cfg.get("spacing"), "counts")) and sum(cfg.spacing.counts) != _part(cfg.get("sampler"), "steps")
        ),
        "spacing.counts do not add up to sampler.steps (take sampler.steps=45 with spacing.counts=[10,15,20])",
    ),
    Rule(
        lambda cfg: _pure_noise(cfg) and _is(cfg.get("sampler"), "Langevin"),
        "sampler=langevin works in x/alpha, and the schedule ends at alpha = 0; "
        "take another sampler, or end the schedule before that with schedule.log_snr_min=-15",
    ),
    Rule(
        lambda cfg: (
            (_part(cfg.get("schedule"), "beta_min") or 0) > (_part(cfg.get("schedule"), "beta_max") or math.inf)
        ),
        "schedule.beta_min is larger than schedule.beta_max; give the smaller one first",
    ),
    Rule(
        _unseen,
        "callbacks.checkpoint.monitor is a figure that these metrics and this likelihood do not find; take headline, "
        "which is what they judge by, or val/loss (kid needs metrics=all, rfid a codec, cmmd extractor=clip, "
        "sfid extractor=classifier or inception, bits_per_dim and nats_per_dim a likelihood)",
    ),
    *CONFIG_RULES,
)


def _late(cfg: DictConfig) -> bool:
    """Whether nearly all of the schedule's t are very noisy."""
    return _is(cfg.get("schedule"), "EDM", "VESqrt")


SMALL = 16  # pixels a side, of which an enlargement to 224 shows nothing that photographs have


# What has a meaning and yet is hardly meant: said when a run starts, and not refused.
ADVICE = (
    Rule(
        lambda cfg: _late(cfg) and _is(cfg.get("spacing"), "Trailing", "Leading", "Linspace", "Quadratic", "Sections"),
        "nearly all times of this schedule are very noisy, and this spacing is even in them: its last step goes from a "
        "large sigma to 0; spacing=karras is what the schedule is made for",
    ),
    Rule(
        lambda cfg: _late(cfg) and _is(cfg.get("time_sampling"), "Uniform", "Discrete", "LossSecondMoment"),
        "nearly all times of this schedule are very noisy, and these are drawn evenly: images are hardly trained on; "
        "time_sampling=log_normal is what the schedule is made for (experiment=edm takes all that it wants)",
    ),
    Rule(
        lambda cfg: (
            _looks(cfg, "inception", "dinov2", "clip")
            and (_is(cfg.get("data"), "Digits") or (_part(cfg.get("data"), "size") or math.inf) < SMALL)
        ),
        "this extractor enlarges images to more than 200 pixels a side, and of these it sees a blur; "
        "extractor=classifier sees them as they are",
    ),
)


def advice(cfg: DictConfig) -> list[str]:
    return [rule.reason for rule in ADVICE if rule.broken(cfg)]


def check_rules(cfg: DictConfig, rules: tuple[Rule, ...] = RULES) -> None:
    """Raises IncompatibleError for the first rule that is broken."""
    for rule in rules:
        if rule.broken(cfg):
            raise IncompatibleError(rule.reason)
