"""The LightningModules: encode, condition, objective, log. The equations live in the parts they are given."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, final

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from denoiselab import distributed
from denoiselab.backbones.layers import blocks
from denoiselab.codecs import Autoencoder
from denoiselab.conditioning import Cond, Wishes
from denoiselab.conditioning.wishes import numbered
from denoiselab.data.source import to_float
from denoiselab.ema import EMA
from denoiselab.objectives import Autoencoding, Objective
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.randomness import SampleNoise, generator, reseed
from denoiselab.time_sampling import LossSecondMoment
from denoiselab.training.sharding import gathered, shard


class Figure(NamedTuple):
    """A figure of a step's weights, of n samples or images."""

    value: float
    step: int
    n: int


class System(pl.LightningModule, ABC):
    """Trains a pipeline with an objective; `description` (plain values) is stored with every checkpoint.

    Every random draw of a training step follows from (seed, batch number) and an image's place in the global batch, so
    that it is the same on any number of ranks, and nothing else that draws disturbs it; dropout alone follows the rank.
    """

    objective: nn.Module

    def __init__(
        self,
        pipeline: Pipeline,
        objective: nn.Module,
        recipe: Recipe,
        optimizer: Callable[..., Any],
        ema: EMA,
        seed: int,
        flip: bool = False,
        description: dict[str, Any] | None = None,
        wishes: Wishes | None = None,
    ) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.objective = objective
        self.recipe = recipe
        self.make_optimizer = optimizer
        self.ema = ema
        self.seed = seed
        self.flip = flip
        self.description = description or {}
        self.wishes = wishes or Wishes(pipeline.conditioner, self.description.get("num_classes", 0))
        self.ema.bind(pipeline)
        self.figures: dict[str, Any] = {}  # the newest of evaluation, for whoever logs and saves
        self.judged: dict[str, Figure] = {}  # the newest that steps are compared by: by name, of the same n all along
        self.losses: dict[str, float] = {}  # the newest of training and validation, as they were logged
        self.loss = torch.tensor(torch.nan)  # of the newest optimizer step, on this rank
        self._losses: list[Tensor] = []  # of the batches of the step that is being made
        self._totals: dict[str, Tensor] = {}  # of the validation that is being made, on this rank
        self.validated_at = -1
        self._sharded = False
        self.paused = 0.0  # seconds spent beside training, which its pace does not count

    @abstractmethod
    def trained(self, batch: dict[str, Tensor], batch_idx: int, rng: torch.Generator) -> Tensor:
        """The losses of this rank's part of a batch, (B,); what it draws is `drawn` of rng, rank 0's."""

    @abstractmethod
    def validated(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """float64 sums over test images, of which `told` makes figures: those of several batches are added.

        "count" is the number of images; inside, the model has its averaged weights.
        """

    @abstractmethod
    def told(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Figures of all test images: "loss" and others."""

    def configure_model(self) -> None:
        """With trainer=fsdp, which has given us a mesh of devices, the weights and averages become shards, once."""
        if self.device_mesh is not None and not self._sharded:
            self._sharded = True
            shard(self, blocks(self.pipeline.denoiser.backbone), "training_step", self.device_mesh["data_parallel"])
            self.ema.bind(self.pipeline, partial(gathered, self))

    @final
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        reseed(self.device, self.seed, "dropout", batch_idx, self.global_rank)
        rng = generator(self.seed, "train", batch_idx, 0, device=self.device)  # rank 0's, which all share
        if self.flip:
            batch = _flipped(batch, self.drawn(torch.rand, rng, len(batch["image"])))
        loss = self.trained(batch, batch_idx, rng).mean()
        self._losses.append(loss.detach())
        return loss

    def drawn(self, draw: Callable[..., Tensor], rng: torch.Generator, n: int, *shape: int) -> Tensor:
        """This rank's rows, (n, ...), of what `draw` makes for the global batch."""
        ranks = self.trainer.world_size
        every = draw(n * ranks, *shape, generator=rng, device=self.device)
        return every[self.global_rank :: ranks].clone() if ranks > 1 else every  # the others' rows go at once

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The average follows at once, so that whatever looks at this step's weights finds this step's average."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update()
        self.loss, self._losses = torch.stack(self._losses).mean(), []

    def on_validation_epoch_start(self) -> None:
        self._totals = {}

    @final
    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        with self.ema.swapped():
            sums = self.validated(batch)
        self._totals = {name: value.cpu() + self._totals.get(name, 0) for name, value in sums.items()}

    def on_validation_epoch_end(self) -> None:
        sums = {name: distributed.all_sum(total) for name, total in self._totals.items()}
        figures = {f"val/{name}": value for name, value in self.told(sums).items()}
        self.log_dict(figures, logger=False)  # Lightning would give them the step before
        self.losses |= figures
        self.judged["val/loss"] = Figure(figures["val/loss"], self.global_step, int(sums["count"]))
        for logger in self.loggers:
            logger.log_metrics(figures, step=self.global_step)
        self.validated_at = self.global_step

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer, schedule = self.make_optimizer(trained, max_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.ema.state_dict()
        checkpoint["denoiselab"] = self.description

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ema.load_state_dict(checkpoint["ema"])


@final
class DiffusionSystem(System):
    """Trains a denoiser by a diffusion's objective, in the space of a codec that stays as it is."""

    objective: Objective

    def encode(self, batch: dict[str, Tensor], numbers: Sequence[int] | None = None) -> tuple[Tensor, Cond]:
        """(x_0, condition); of test images, what is chosen at random follows from their numbers.

        x_0 is batch["latent"] where the data have it already.
        """
        batch = batch if numbers is None else numbered(self.pipeline.conditioner, batch, numbers)
        if "latent" in batch:
            return batch["latent"], self.pipeline.conditioner(batch)
        with torch.autocast(self.device.type, enabled=False):  # latents that are kept are in full precision, too
            x0 = self.pipeline.codec.encode(to_float(batch["image"]))
        return x0, self.pipeline.conditioner(batch)

    def trained(self, batch: dict[str, Tensor], batch_idx: int, rng: torch.Generator) -> Tensor:
        n, conditioner = len(batch["image"]), self.pipeline.conditioner
        if conditioner.draws:
            batch = batch | {"u": self.drawn(torch.rand, rng, n, conditioner.draws)}
        x0, cond = self.encode(batch)
        if conditioner.drop:
            cond = conditioner.dropped(cond, self.drawn(torch.rand, rng, n, conditioner.coins))
        eps = self.drawn(torch.randn, rng, *x0.shape).to(x0.dtype)
        times, t = self.times(len(x0), batch_idx)
        losses: Tensor = self.objective(self.pipeline.denoiser, x0, cond, t=t, eps=eps)
        self.remember(times, losses.detach())
        return losses

    def times(self, n: int, batch_idx: int) -> tuple[Tensor, Tensor]:
        """The times of the global batch, and this rank's part of them: (n,); on the CPU, which has float64."""
        ranks, rng = self.trainer.world_size, generator(self.seed, "time", batch_idx)
        every = self.objective.time_sampler(n * ranks, rng, schedule=self.pipeline.denoiser.schedule).detach()
        return every, every[self.global_rank :: ranks]

    def remember(self, times: Tensor, losses: Tensor) -> None:
        """Tells a time sampler that learns from losses those of the global batch, times: (n,), without their weight."""
        sampler = self.objective.time_sampler
        if isinstance(sampler, LossSecondMoment):
            mine = range(self.global_rank, len(times), self.trainer.world_size)
            every = distributed.collect(losses.cpu().double(), mine, len(times))
            times, every = times[every.isfinite()], every[every.isfinite()]  # one NaN would stay in its history
            sampler.update(times, every / sampler.importance(times))

    def validated(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of losses at times and noise that depend on the image's number alone.

        Runs are thereby compared on the same (x_0, t, eps), where they share the distribution of t; the golden ratio
        spreads its quantiles evenly over any number of images.
        """
        denoiser, u = self.pipeline.denoiser, 1 - (batch["index"].cpu().double() + 0.5) * (5**0.5 - 1) / 2 % 1
        t = self.objective.time_sampler.quantile(u, denoiser.schedule)
        x0, cond = self.encode(batch, batch["index"].tolist())
        eps = SampleNoise(0, batch["index"].tolist(), "validation")(x0)
        figures = self.objective.figures(denoiser, x0, cond, t, eps)
        return _summed({name: figures[name] for name in self.objective.names})

    def told(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {name: float(sums[name] / sums["count"]) for name in self.objective.names}


@final
class AutoencoderSystem(System):
    """Trains the pipeline's codec by an autoencoder's objective; its denoiser has no weights."""

    objective: Autoencoding

    @property
    def codec(self) -> Autoencoder:
        assert isinstance(self.pipeline.codec, Autoencoder)
        return self.pipeline.codec

    def trained(self, batch: dict[str, Tensor], batch_idx: int, rng: torch.Generator) -> Tensor:
        images = to_float(batch["image"])
        eps = self.drawn(torch.randn, rng, len(images), *self.pipeline.latent_shape)
        losses: Tensor = self.objective(self.codec, images, eps, self.global_step)
        return losses

    def validated(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of losses at noise that depends on the image's number alone, and of what the latents are like."""
        images, numbers = to_float(batch["image"]), batch["index"].tolist()
        eps = SampleNoise(0, numbers, "validation")(images.new_empty(len(images), *self.pipeline.latent_shape))
        return _summed(self.objective.figures(self.codec, images, eps)) | self.codec.tally(images)

    def told(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {name: float(sums[name] / sums["count"]) for name in self.objective.names} | self.codec.told(sums)


def _summed(figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sums of figures (B,), float64, and B as "count"."""
    sums = {name: values.detach().cpu().double().sum() for name, values in figures.items()}
    return sums | {"count": torch.tensor(float(len(next(iter(figures.values())))), dtype=torch.float64)}


def _flipped(batch: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
    """Each image mirrored left to right where u: (B,) is below 1/2, and its latent that of the mirrored image."""
    mirrored = (u < 0.5)[:, None, None, None]
    turned = {"image": torch.where(mirrored, batch["image"].flip(-1), batch["image"])}
    if "latent" in batch:
        turned["latent"] = torch.where(mirrored, batch["mirrored_latent"], batch["latent"])
    return batch | turned
