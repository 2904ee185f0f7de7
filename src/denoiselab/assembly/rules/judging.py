"""Rules for metrics, feature extractors and the metric that selects checkpoints."""

import math

from omegaconf import DictConfig

from denoiselab.assembly.rules.rule import Rule, at, draws, is_a, latent, looks, points


def _unseen(cfg: DictConfig) -> bool:
    """Whether checkpoint.monitor is a metric that this run does not compute."""
    monitor = at(cfg.get("callbacks"), "checkpoint.monitor")
    found = {None, "headline", "val/loss"}
    if cfg.get("likelihood"):
        found.add("nats_per_dim" if points(cfg) else "bits_per_dim")
    if metrics := cfg.get("metrics"):
        usual = {"sliced_wasserstein": True} if is_a(metrics.get("evaluation"), "PointEvaluation") else {}
        found |= {name for name, figure in metrics.get("figures", usual).items() if figure}
        if "fid" in found and latent(cfg):
            found.add("rfid")
        if looks(cfg, "trained_classifier", "inception", "dinov2"):  # their features do not have unit length
            found -= {"cmmd"}
        if looks(cfg, "dinov2", "clip"):  # they have no spatial features
            found -= {"sfid"}
    return monitor not in found


def _late(cfg: DictConfig) -> bool:
    """Whether nearly all times of the schedule are very noisy."""
    return is_a(cfg.get("schedule"), "EDM", "VESqrt")


PAIRS = (
    Rule(
        lambda cfg: looks(cfg, "trained_classifier") and at(cfg.get("metrics"), "weights") is not None,
        "metrics.weights are those of a network that others have trained, and extractor=classifier is trained on the "
        "data; take extractor=inception, dinov2 or clip, or leave metrics.weights out",
    ),
    Rule(
        lambda cfg: draws(cfg, "FewSteps") and not cfg.get("metrics"),
        "experiment=few_steps compares samplers by a figure, and metrics=none has none; take metrics=fid",
    ),
)

RULES = (
    Rule(
        lambda cfg: looks(cfg, "dinov2", "clip") and at(cfg.get("metrics"), "weights") is None,
        "metrics.weights must be given, the folder of a model of transformers; take metrics.weights=<folder>, or "
        "extractor=classifier, which needs none",
    ),
    Rule(
        _unseen,
        "callbacks.checkpoint.monitor is a figure that these metrics and this likelihood do not find; take headline, "
        "which is what they judge by, or val/loss (kid needs metrics=all, rfid a codec, cmmd extractor=clip, "
        "sfid extractor=classifier or inception, bits_per_dim and nats_per_dim a likelihood)",
    ),
)

SMALL = 16  # pixels per side; enlarged to 224, such images look nothing like photographs


# Valid but unusual combinations, printed as notes when a run starts.
ADVICE = (
    Rule(
        lambda cfg: _late(cfg) and is_a(cfg.get("spacing"), "Trailing", "Leading", "Linspace", "Quadratic", "Sections"),
        "nearly all times of this schedule are very noisy, and this spacing is even in them: its last step goes from a "
        "large sigma to 0; spacing=karras is what the schedule is made for",
    ),
    Rule(
        lambda cfg: _late(cfg) and is_a(cfg.get("time_sampling"), "Uniform", "Discrete", "LossSecondMoment"),
        "nearly all times of this schedule are very noisy, and these are drawn evenly: images are hardly trained on; "
        "time_sampling=log_normal is what the schedule is made for (experiment=edm takes all that it wants)",
    ),
    Rule(
        lambda cfg: (
            looks(cfg, "inception", "dinov2", "clip")
            and (is_a(cfg.get("data"), "Digits") or (at(cfg.get("data"), "size") or math.inf) < SMALL)
        ),
        "this extractor enlarges images to more than 200 pixels a side, and of these it sees a blur; "
        "extractor=classifier sees them as they are",
    ),
)
