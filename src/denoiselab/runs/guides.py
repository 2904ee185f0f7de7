"""Trained runs as guides: classifiers for classifier guidance, weak models for autoguidance."""

import torch
from torch import Tensor

from denoiselab.backbones import Encoder
from denoiselab.codecs import Codec, Latents
from denoiselab.denoiser import Prediction
from denoiselab.errors import ConfigError, RunError
from denoiselab.guidance import AtSameSNR
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.runs import codecs
from denoiselab.runs.load import open_run
from denoiselab.schedules import Schedule


class _Guide:
    """A run's model, moved to the device of its input."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline.requires_grad_(False)
        self.translated = AtSameSNR(pipeline.denoiser.schedule)

    def asked(self, x_t: Tensor, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        """Translate (x_t, t) from `schedule` to this model's own. Raises RunError for images of another shape."""
        if x_t.shape[1:] != torch.Size(self.pipeline.latent_shape):
            raise RunError(
                f"the guide's run was trained on images of shape {list(self.pipeline.latent_shape)}, and these have "
                f"{list(x_t.shape[1:])}; give a run of the same data"
            )
        self.pipeline.to(x_t.device)
        return self.translated(x_t, t, schedule)


class ClassifierGuide(_Guide):
    def __call__(self, x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        """Return class scores, (B, classes)."""
        return self.pipeline.denoiser.output(*self.asked(x_t, t, schedule)).F


class WeakGuide(_Guide):
    def __call__(self, x_t: Tensor, t: Tensor, schedule: Schedule, label: Tensor | None) -> Prediction:
        conditioner = self.pipeline.conditioner
        if label is None:  # unconditional, like the guided model
            cond = conditioner.null(conditioner({"label": torch.zeros(len(x_t), dtype=torch.int64, device=x_t.device)}))
        else:
            cond = conditioner({"label": label})
        return self.pipeline.denoiser(*self.asked(x_t, t, schedule), cond)


def classifier(run: str | None, checkpoint: str = "last") -> ClassifierGuide:
    """Load a classifier. Raises ConfigError without a run, RunError if the run is not a classifier."""
    pipeline = _loaded(run, checkpoint, "guidance.classifier.run", "one of experiment=noisy_classifier")
    if not isinstance(pipeline.denoiser.backbone, Encoder):
        raise RunError(f"run {run} is no classifier; train one with python train.py experiment=noisy_classifier")
    return ClassifierGuide(pipeline)


def weak_model(run: str | None, checkpoint: str = "last") -> WeakGuide:
    """Load a weak denoiser. Raises ConfigError without a run, RunError for a classifier or a condition beyond class."""
    pipeline = _loaded(run, checkpoint, "guidance.weak.run", "of a smaller or less trained model")
    if isinstance(pipeline.denoiser.backbone, Encoder):
        raise RunError(f"run {run} is a classifier; autoguidance needs a denoiser, smaller or less trained")
    if pipeline.conditioner.sees or pipeline.conditioner.draws:
        raise RunError(
            f"run {run} is told more than a class, and autoguidance tells it the class alone; take guidance=cfg"
        )
    return WeakGuide(pipeline)


def check_codec(recipe: Recipe, pipeline: Pipeline) -> None:
    """Raise RunError for a guide trained on other latents, which differ even if their shape is the same."""
    for guide in vars(recipe.guidance).values():
        if isinstance(guide, _Guide) and not _same(guide.pipeline.codec, pipeline.codec):
            raise RunError(
                "the run that guides was trained in other latents, or in none, than the one that is guided; give one "
                "of the same codec, codec.run or codec.folder, and of the same data"
            )


def _same(one: Codec, other: Codec) -> bool:
    if not isinstance(one, Latents) or not isinstance(other, Latents):
        return type(one) is type(other)
    weights = [getattr(codec.model, "sha256", None) or codecs.digest(codec.model) for codec in (one, other)]
    # Batches, devices or half precision change the measured scale by less than this.
    pairs = [(one.scale / other.scale, torch.ones(())), (one.shift / other.scale, other.shift / other.scale)]
    close = [torch.allclose(a.cpu().float(), b.cpu().float(), rtol=0.01, atol=0.01) for a, b in pairs]
    return weights[0] == weights[1] and all(close)


def _loaded(run: str | None, checkpoint: str, key: str, what: str) -> Pipeline:
    if run is None:
        raise ConfigError(f"{key} must be given, a run's folder, {what}")
    return open_run(run, checkpoint, torch.device("cpu")).pipeline
