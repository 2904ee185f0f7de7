"""The limits of single values, key by key: what a number or a word on the command line may be."""

import math
from typing import Any, NamedTuple


class Limit(NamedTuple):
    """A sensible value: a number in [low, high], or one of `words`; null too where the default is null."""

    low: float = -math.inf
    high: float = math.inf
    words: tuple[Any, ...] = ()
    above: bool = False  # low itself is not allowed
    null: bool = False  # null has a meaning though the default is another
    whole: bool = False  # no fractions, whatever the default is

    def allows(self, value: Any) -> bool:
        if self.words:
            return value in self.words
        kind = int if self.whole else int | float
        number = isinstance(value, kind) and not isinstance(value, bool)
        return number and math.isfinite(value) and self._inside(value)

    def _inside(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        if self.words:
            text = " or ".join(map(str, self.words))
        elif math.isinf(self.high):
            text = "a number" if math.isinf(self.low) else f"{'above' if self.above else 'at least'} {self.low:g}"
        else:
            text = f"{'above' if self.above else 'from'} {self.low:g} to {self.high:g}"
        text = f"a whole number, {text}" if self.whole else text
        return f"{text}, or null" if self.null else text


COUNT, NATURAL, POSITIVE, SHARE = Limit(1, whole=True), Limit(0), Limit(0, above=True), Limit(0, 1)
SOME = Limit(2, whole=True)  # of what one says nothing
COUNT_OR_NULL, SOME_OR_NULL = COUNT._replace(null=True), SOME._replace(null=True)


# What Lightning judges itself, in more forms than a type can tell; and what is a number or a list of numbers.
FREE = ("trainer.devices", "trainer.precision", "trainer.deterministic", "ema.decay", "ema.sigma_rel")

# What a checkpoint can be the best by, all of them the lower the better; "headline": what the chosen metrics judge by.
SAMPLED = ("fid", "rfid", "sfid", "kid", "mmd", "cmmd", "sliced_wasserstein")
MONITORS = ("headline", *SAMPLED, "bits_per_dim", "nats_per_dim", "val/loss")

LIMITS = {
    "seed": NATURAL,
    "batch_size": COUNT,
    "num_workers": NATURAL,
    "n": COUNT,
    "checkpoint": Limit(words=("last", "best", "previous")),
    "device": Limit(words=("auto", "cpu", "cuda", "mps")),
    "schedule.T": SOME_OR_NULL,
    "schedule.beta_min": POSITIVE,
    "schedule.beta_max": POSITIVE,
    "schedule.s": POSITIVE,
    "schedule.log_snr_min": Limit(null=True),
    "schedule.shift": POSITIVE,
    "schedule.beta": POSITIVE,
    "schedule.betas": Limit(0, 1, above=True),
    "schedule.sigma_min": POSITIVE,
    "schedule.sigma_max": POSITIVE,
    "schedule.start": Limit(),
    "schedule.end": Limit(),
    "schedule.tau": POSITIVE,
    "schedule.units": COUNT,
    "parameterization.T": SOME,
    "parameterization.sigma_data": POSITIVE,
    "loss.weighting.gamma": POSITIVE,
    "loss.weighting.offset": NATURAL,
    "loss.weighting.k": NATURAL,
    "loss.weighting.sigma_data": POSITIVE,
    "loss.weighting.b": Limit(),
    "loss.weighting.T": SOME,
    "loss.T": SOME_OR_NULL,
    "loss.variance": Limit(words=("small", "large", "learned")),
    "loss.weight_vlb": POSITIVE,
    "loss.kl": NATURAL,
    "loss.codebook": NATURAL,
    "loss.commitment": NATURAL,
    "loss.perceptual": NATURAL,
    "loss.adversarial.weight": NATURAL,
    "loss.adversarial.start": NATURAL,
    "loss.adversarial.channels": COUNT,
    "loss.adversarial.halvings": COUNT,
    "codec.downsample": COUNT,
    "codec.latent_channels": COUNT,
    "codec.channels": COUNT,
    "codec.blocks": COUNT,
    "codec.codes": SOME,
    "codec.checkpoint": Limit(words=("last", "best", "previous")),
    "loss.features": COUNT,
    "norm.delta": POSITIVE,
    "time_sampling.T": COUNT,
    "time_sampling.mean": Limit(),
    "time_sampling.std": POSITIVE,
    "time_sampling.history": COUNT,
    "time_sampling.uniform": Limit(0, 1, above=True),
    "spacing.T": COUNT_OR_NULL,
    "spacing.t_min": Limit(0, 0.5, above=True),
    "spacing.rho": POSITIVE,
    "spacing.sigma_min": POSITIVE,
    "spacing.sigma_max": POSITIVE,
    "spacing.counts": COUNT_OR_NULL,
    "sampler.steps": COUNT,
    "sampler.eta": SHARE,
    "sampler.s_churn": NATURAL,
    "sampler.s_min": NATURAL,
    "sampler.s_max": NATURAL,
    "sampler.s_noise": POSITIVE,
    "sampler.variance": Limit(words=("small", "large", "interpolated", "learned")),
    "sampler.fraction": SHARE,
    "sampler.inner": COUNT,
    "sampler.epsilon": Limit(0, 3.99, above=True),
    "sampler.snr": POSITIVE,
    "sampler.corrector_steps": NATURAL,
    "sampler.rtol": Limit(0, 1, above=True),
    "sampler.atol": Limit(0, 1, above=True),
    "sampler.t_min": Limit(0, 0.5, above=True),
    "sampler.order": Limit(1, 3, whole=True),
    "sampler.variant": Limit(words=("bh1", "bh2")),
    "threshold.low": Limit(),
    "threshold.percentile": Limit(0, 1, above=True),
    "threshold.high": Limit(),
    "guidance.scale": Limit(),
    "guidance.scales": Limit(),
    "guidance.sigma_low": NATURAL,
    "guidance.sigma_high": Limit(0, above=True, null=True),
    "guidance.rescale": SHARE,
    "guidance.classifier.checkpoint": Limit(words=("last", "best")),
    "guidance.weak.checkpoint": Limit(words=("last", "best")),
    "conditioning.dim": COUNT,
    "conditioning.num_classes": COUNT_OR_NULL,
    "backbone.num_classes": COUNT_OR_NULL,
    "conditioning.drop": SHARE,
    "conditioning.factor": SOME,
    "conditioning.enlarge": Limit(words=("nearest", "bilinear")),
    "conditioning.null": Limit(words=("learned", "zero")),
    "inpainting.jump": COUNT,
    "inpainting.resamples": COUNT,
    "conditioning.route": Limit(words=("tokens", "vector", "both")),
    "conditioning.length": SOME,
    "conditioning.tell": SHARE,
    "conditioning.encoder.width": COUNT,
    "conditioning.encoder.depth": COUNT,
    "conditioning.encoder.heads": COUNT,
    "backbone.channels": COUNT,
    "backbone.blocks": COUNT,
    "backbone.multipliers": COUNT,
    "backbone.attention": COUNT,
    "backbone.heads": COUNT,
    "backbone.dropout": Limit(0, 0.99),
    "backbone.patch": COUNT,
    "backbone.bottleneck": COUNT,
    "backbone.width": COUNT,
    "backbone.depth": COUNT,
    "backbone.mlp_ratio": COUNT,
    "data.size": COUNT,
    "data.channels": Limit(words=(1, 3)),
    "data.test_fraction": Limit(0.001, 0.999),
    "data.memory_mb": NATURAL,
    "data.objects": Limit(words=("digits", "fashion_mnist")),
    "data.most": COUNT,
    "data.train": SOME,
    "data.test": SOME,
    "data.dim": SOME,
    "data.seed": NATURAL,
    "data.distribution.noise": NATURAL,
    "data.distribution.modes": COUNT,
    "data.distribution.std": NATURAL,
    "data.distribution.squares": SOME,
    "data.distribution.arms": COUNT,
    "data.distribution.radial": NATURAL,
    "data.distribution.tangential": NATURAL,
    "data.distribution.twist": Limit(),
    "optimizer.lr": POSITIVE,
    "optimizer.betas": Limit(0, 0.99999),
    "optimizer.weight_decay": NATURAL,
    "optimizer.warmup_steps": NATURAL,
    "optimizer.decay": Limit(words=("cosine", "constant")),
    "ema.decay": Limit(0, 0.999999, null=True),
    "ema.sigma_rel": Limit(0, 0.28, above=True),
    "ema.snapshot_every": COUNT_OR_NULL,
    "trainer.max_steps": COUNT,
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.gradient_clip_val": Limit(0, above=True, null=True),
    "trainer.val_check_interval": COUNT,
    "trainer.log_every_n_steps": COUNT,
    "trainer.num_nodes": COUNT,
    "trainer.accelerator": Limit(words=("auto", "cpu", "gpu", "cuda", "mps")),
    "trainer.deterministic": Limit(words=(True, False, "warn")),
    "logger.mode": Limit(words=("offline", "online")),
    "metrics.every": COUNT_OR_NULL,
    "metrics.n": SOME,
    "metrics.max_seconds": Limit(0, above=True, null=True),
    "metrics.seed": NATURAL,
    "metrics.batch_size": COUNT,
    "metrics.keep": Limit(10, whole=True),
    "metrics.figures.fid.resamples": SOME_OR_NULL,
    "metrics.figures.mmd.sigma": Limit(0, above=True, null=True),
    "metrics.figures.cmmd.sigma": POSITIVE,
    "metrics.figures.cmmd.scale": POSITIVE,
    "metrics.figures.inception_score.splits": COUNT,
    "metrics.figures.precision_recall.k": COUNT,
    "metrics.figures.density_coverage.k": COUNT,
    "metrics.figures.memorisation.ratio": Limit(0, 1, above=True),
    "metrics.evaluation.directions": COUNT,
    "likelihood.every": COUNT_OR_NULL,
    "likelihood.n": SOME_OR_NULL,
    "likelihood.batch_size": COUNT,
    "likelihood.method.T": SOME,
    "likelihood.method.K": SOME,
    "likelihood.method.variance": Limit(words=("small", "large")),
    "likelihood.method.bins": COUNT,
    "likelihood.method.seed": NATURAL,
    "likelihood.method.spacing.t_min": Limit(0, 0.5, above=True),
    "likelihood.method.steps": SOME,
    "likelihood.method.probes": COUNT_OR_NULL,
    "likelihood.method.t_min": Limit(0, 0.5, above=True, null=True),
    "callbacks.finite.on_nan": Limit(words=("stop", "skip")),
    "callbacks.finite.patience": COUNT,
    "callbacks.pace.every": COUNT,
    "callbacks.ranks.every": COUNT,
    "callbacks.samples.n": COUNT,
    "callbacks.samples.columns": COUNT,
    "callbacks.samples.every": COUNT_OR_NULL,
    "callbacks.samples.seed": NATURAL,
    "callbacks.samples.batch_size": COUNT,
    "callbacks.reconstructions.n": COUNT,
    "callbacks.reconstructions.columns": COUNT,
    "callbacks.reconstructions.every": COUNT_OR_NULL,
    "callbacks.reconstructions.batch_size": COUNT,
    "callbacks.denoising.n": COUNT,
    "callbacks.denoising.moments": COUNT,
    "callbacks.denoising.every": COUNT_OR_NULL,
    "callbacks.denoising.seed": NATURAL,
    "callbacks.scatter.n": COUNT,
    "callbacks.scatter.every": COUNT_OR_NULL,
    "callbacks.scatter.seed": NATURAL,
    "callbacks.scatter.batch_size": COUNT,
    "callbacks.process.n": SOME,
    "callbacks.process.moments": SOME,
    "callbacks.process.paths": NATURAL,
    "callbacks.process.frames": SOME,
    "callbacks.process.every": COUNT_OR_NULL,
    "callbacks.process.seed": NATURAL,
    "callbacks.few_steps.evaluations": COUNT,
    "callbacks.few_steps.n": SOME,
    "callbacks.few_steps.seed": NATURAL,
    "callbacks.few_steps.batch_size": COUNT,
    "callbacks.loss_by_log_snr.n": COUNT,
    "callbacks.loss_by_log_snr.levels": COUNT,
    "callbacks.loss_by_log_snr.batch_size": COUNT,
    "callbacks.checkpoint.monitor": Limit(words=MONITORS, null=True),
    "callbacks.checkpoint.every_n_train_steps": COUNT_OR_NULL,
}


def limit_of(key: str) -> Limit | None:
    """That of a key of a part of conditioning=several is that of the part by itself."""
    axis, _, rest = key.partition(".")
    return LIMITS.get(key) or (LIMITS.get(f"{axis}.{rest.partition('.')[2]}") if axis == "conditioning" else None)
