"""Plots of a model of points, projected to the plane if they have more dimensions.

All are drawn with the averaged weights, on rank 0 only.
"""

from dataclasses import replace

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from denoiselab.conditioning.wishes import balanced_labels
from denoiselab.data.points import Points
from denoiselab.denoiser import Prediction
from denoiselab.limits import AtLeastTwo, Count, Natural, checked
from denoiselab.pictures import write_png
from denoiselab.pipeline import Generated, Pipeline
from denoiselab.point_pictures import (
    Panel,
    animation,
    beside,
    coloured,
    colours,
    field,
    nearest,
    panels,
    saturated,
    times,
    unit,
)
from denoiselab.randomness import SampleNoise
from denoiselab.samplers import Step
from denoiselab.samplers.sampler import start_scale
from denoiselab.training.callbacks.logging import log_animation, log_picture, run_folder
from denoiselab.training.callbacks.periodic import Periodic
from denoiselab.training.callbacks.samples import caption
from denoiselab.training.system import System


def _points(trainer: pl.Trainer) -> Points:
    source = trainer.datamodule.source  # type: ignore[attr-defined]
    assert isinstance(source, Points)
    return source


def _labels(pipeline: Pipeline, labels: Tensor) -> Tensor | None:
    """Return the requested classes if the model is conditioned on them."""
    return labels if pipeline.conditioner.asks_class else None


class PointScatter(Periodic):
    """Callback that plots n test points next to n samples, to samples/step_<N>.png and the loggers' key "samples".

    samples/step_<N>.npy holds the samples in the plane, float32 (n, 2).
    """

    @checked
    def __init__(
        self, n: Count = 2000, every: Count | None = None, seed: Natural = 0, batch_size: Count = 2048
    ) -> None:
        super().__init__(every)
        self.n, self.seed, self.batch_size = n, seed, batch_size

    def work(self, trainer: pl.Trainer, system: System) -> None:
        source, pipeline = _points(trainer), system.pipeline
        labels = balanced_labels(range(self.n), source.num_classes)
        with system.ema.swapped():  # all ranks, which may have to gather the weights
            if not trainer.is_global_zero:
                return
            made = list(pipeline.generate(system.recipe, range(self.n), labels, self.seed, self.batch_size))
        samples = source.in_plane(torch.cat([batch.images for batch in made]))
        picture = beside(source, samples, _labels(pipeline, labels))
        stem = run_folder(trainer) / "samples" / f"step_{trainer.global_step}"
        write_png(picture, stem.with_suffix(".png"))
        np.save(stem.with_suffix(".npy"), samples.float().numpy())
        log_picture(trainer, "samples", picture, caption(trainer, system, self.seed, made[0].evaluations))


class PointProcess(Periodic):
    r"""Callback that plots the process at `moments` times, even in $\arctan(\sigma/\alpha)$.

    As in Sohl-Dickstein 2015, figure 1. Writes to samples/ and the loggers, for step N:
    forward_<N>.png ("forward"), data diffusing to noise;
    reverse_<N>.png and .gif ("denoising", "animation"), samples denoised, with the paths of the first `paths`;
    score_<N>.png ("score"), $\sigma$ times the learned unconditional score, as arrows over noisy data.
    """

    @checked
    def __init__(
        self,
        n: AtLeastTwo = 1000,
        moments: AtLeastTwo = 6,
        paths: Natural = 12,
        frames: AtLeastTwo = 30,
        every: Count | None = None,
        seed: Natural = 0,
    ) -> None:
        super().__init__(every)
        self.n, self.moments, self.paths, self.frames, self.seed = n, moments, paths, frames, seed

    @torch.no_grad()  # a schedule may have weights
    def work(self, trainer: pl.Trainer, system: System) -> None:
        source, folder, step = _points(trainer), run_folder(trainer) / "samples", trainer.global_step
        with system.ema.swapped():
            if not trainer.is_global_zero:
                return
            generated, film = self.reverse(system, source)
            score = self.score(system.pipeline, source)
        said, schedule = caption(trainer, system, self.seed, generated.evaluations), system.pipeline.denoiser.schedule
        even = [i / (self.moments - 1) for i in range(self.moments)]
        shown = {
            "forward": panels(self.forward(system.pipeline, source, times(schedule, even))),
            "reverse": panels(self.scenes(system.pipeline, source, film, generated.labels, self.moments)),
            "score": panels(score),
        }
        for (name, picture), key in zip(shown.items(), ("forward", "denoising", "score"), strict=True):
            write_png(picture, folder / f"{name}_{step}.png")
            log_picture(trainer, key, picture, said)
        path = folder / f"reverse_{step}.gif"
        animation(self.scenes(system.pipeline, source, film, generated.labels, self.frames), path)
        log_animation(trainer, "animation", path, said)

    def forward(self, pipeline: Pipeline, source: Points, at: Tensor) -> list[Panel]:
        r"""Return panels of $x_t = \alpha x_0 + \sigma \epsilon$ for test points, each with one eps at all times."""
        data, made = source.test.__getitems__(range(min(self.n, len(source.test)))), []
        z = source.in_plane(data["image"])
        eps = SampleNoise(self.seed, range(len(z)), "forward")(z)
        colour = colours(z, data["label"] if source.num_classes else None)
        schedule = pipeline.denoiser.schedule
        for t in at:
            alpha, sigma = schedule(t)
            made.append(Panel(f"t = {float(t):.3g}", unit(schedule, t) * (alpha * z + sigma * eps), colour))
        return made

    def reverse(self, system: System, source: Points) -> tuple[Generated, list[tuple[Tensor, Tensor]]]:
        """Return the samples and their trajectory from noise: (t, x_t in the plane, in its unit) per step."""
        pipeline, indices = system.pipeline, range(self.n)
        schedule, film = pipeline.denoiser.schedule, []

        def keep(t: Tensor, x: Tensor) -> None:
            film.append((t, unit(schedule, t) * source.in_plane(pipeline.codec.decode(x))))

        def watch(step: Step, prediction: Prediction) -> None:
            if step.index == 0:
                noise = SampleNoise(self.seed, indices)(torch.empty(self.n, *pipeline.latent_shape))
                keep(step.t, start_scale(schedule, step.t).float() * schedule.prior_std * noise)
            keep(step.s, step.x)

        labels = balanced_labels(indices, source.num_classes)
        return pipeline.sample(system.recipe, indices, labels, self.seed, watch), film

    def scenes(
        self, pipeline: Pipeline, source: Points, film: list[tuple[Tensor, Tensor]], labels: Tensor, count: int
    ) -> list[Panel]:
        """Return panels of `count` times of the trajectory, each with the first samples' paths so far."""
        chosen = nearest(pipeline.denoiser.schedule, [float(t) for t, _ in film], count)
        colour = coloured(source, film[-1][1], _labels(pipeline, labels))
        ways = torch.stack([x[: self.paths] for _, x in film])
        return [Panel(f"t = {float(film[i][0]):.3g}", film[i][1], colour, ways[: i + 1]) for i in chosen]

    @torch.inference_mode()
    def score(self, pipeline: Pipeline, source: Points) -> list[Panel]:
        r"""Plot $\sigma \nabla \log p_t(x) = -\hat\epsilon$ on a grid, each place with its own off-plane noise."""
        denoiser, weight, (places, spacing) = pipeline.denoiser, next(pipeline.parameters()), field()
        noise = SampleNoise(self.seed, range(len(places)), "score")(places.new_empty(len(places), *source.shape))
        off_plane = noise - source.embedded(source.in_plane(noise))
        labels = torch.zeros(len(places), dtype=torch.int64, device=weight.device)
        none, made = pipeline.conditioner.null(pipeline.conditioner({"label": labels})), []
        at = times(denoiser.schedule, (0.08, 0.25, 0.5, 0.9))
        with pipeline.evaluating():
            for t, panel in zip(at, self.forward(pipeline, source, at), strict=True):
                x = source.embedded(places) / unit(denoiser.schedule, t) + denoiser.schedule(t).sigma * off_plane
                eps = denoiser(x.to(weight), t.expand(len(x)), none).eps
                made.append(replace(panel, arrows=(places, saturated(-source.in_plane(eps), spacing))))
        return made
