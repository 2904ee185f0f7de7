"""LightningModules: encode, condition, compute the loss, log. The equations are in the parts they are given."""

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
    """A metric of the weights at a step, on n samples or images."""

    value: float
    step: int
    n: int


class System(pl.LightningModule, ABC):
    """LightningModule that trains a pipeline; `description` (plain values) is stored in every checkpoint.

    Every random draw of a training step depends only on the seed, the batch number and an image's position in the
    global batch, so it is the same on any number of ranks and independent of other draws. Only dropout depends on rank.
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
        self.figures: dict[str, Any] = {}  # latest evaluation, for logging and saving
        self.judged: dict[str, Figure] = {}  # latest metrics that rank steps, by name, always of the same n
        self.losses: dict[str, float] = {}  # latest training and validation losses, as logged
        self.loss = torch.tensor(torch.nan)  # of the latest optimizer step, on this rank
        self._losses: list[Tensor] = []  # of the current step's batches
        self._totals: dict[str, Tensor] = {}  # of the current validation, on this rank
        self.validated_at = -1
        self._sharded = False
        self.paused = 0.0  # seconds outside training, excluded from its pace

    @abstractmethod
    def trained(self, batch: dict[str, Tensor], batch_idx: int, rng: torch.Generator) -> Tensor:
        """Return the losses of this rank's part of a batch, (B,). Draw with `drawn` from rng, rank 0's generator."""

    @abstractmethod
    def validated(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return float64 sums over a batch of test images, under the averaged weights.

        Sums are added over batches, and `told` turns them into metrics. "count" is the number of images.
        """

    @abstractmethod
    def told(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the metrics of all test images: "loss" and others."""

    def configure_model(self) -> None:
        """Shard the weights and averages once, under trainer=fsdp, which provides a device mesh."""
        if self.device_mesh is not None and not self._sharded:
            self._sharded = True
            shard(self, blocks(self.pipeline.denoiser.backbone), "training_step", self.device_mesh["data_parallel"])
            self.ema.bind(self.pipeline, partial(gathered, self))

    @final
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        reseed(self.device, self.seed, "dropout", batch_idx, self.global_rank)
        rng = generator(self.seed, "train", batch_idx, 0, device=self.device)  # rank 0's, shared by all
        if self.flip:
            batch = _flipped(batch, self.drawn(torch.rand, rng, len(batch["image"])))
        loss = self.trained(batch, batch_idx, rng).mean()
        self._losses.append(loss.detach())
        return loss

    def drawn(self, draw: Callable[..., Tensor], rng: torch.Generator, n: int, *shape: int) -> Tensor:
        """Return this rank's rows, (n, *shape), of a draw for the global batch."""
        ranks = self.trainer.world_size
        every = draw(n * ranks, *shape, generator=rng, device=self.device)
        return every[self.global_rank :: ranks].clone() if ranks > 1 else every  # frees the other ranks' rows

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the average right after the weights, so that all callbacks see both at the same step."""
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
        self.log_dict(figures, logger=False)  # Lightning would log them at the previous step
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
    """LightningModule that trains a denoiser with a diffusion objective, in the latent space of a frozen codec."""

    objective: Objective

    def encode(self, batch: dict[str, Tensor], numbers: Sequence[int] | None = None) -> tuple[Tensor, Cond]:
        """Return (x_0, condition). For test images, random choices depend on their numbers alone.

        x_0 is batch["latent"] where the data contain it.
        """
        batch = batch if numbers is None else numbered(self.pipeline.conditioner, batch, numbers)
        if "latent" in batch:
            return batch["latent"], self.pipeline.conditioner(batch)
        with torch.autocast(self.device.type, enabled=False):  # cached latents have full precision too
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
        """Return the times of the global batch and this rank's part, (n,), in float64 on the CPU."""
        ranks, rng = self.trainer.world_size, generator(self.seed, "time", batch_idx)
        every = self.objective.time_sampler(n * ranks, rng, schedule=self.pipeline.denoiser.schedule).detach()
        return every, every[self.global_rank :: ranks]

    def remember(self, times: Tensor, losses: Tensor) -> None:
        """Update a loss-aware time sampler with the global batch's times and unweighted losses."""
        sampler = self.objective.time_sampler
        if isinstance(sampler, LossSecondMoment):
            mine = range(self.global_rank, len(times), self.trainer.world_size)
            every = distributed.collect(losses.cpu().double(), mine, len(times))
            times, every = times[every.isfinite()], every[every.isfinite()]  # one NaN would stay in its history
            sampler.update(times, every / sampler.importance(times))

    def validated(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum losses at times and noise that depend on the image's number alone.

        Runs with the same distribution of t are thus compared on the same (x_0, t, eps). Golden-ratio steps spread the
        quantiles of t evenly over any number of images.
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
    """LightningModule that trains the pipeline's codec with an autoencoder objective; the denoiser has no weights."""

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
        """Sum losses, at noise that depends on the image's number alone, and statistics of the latents."""
        images, numbers = to_float(batch["image"]), batch["index"].tolist()
        eps = SampleNoise(0, numbers, "validation")(images.new_empty(len(images), *self.pipeline.latent_shape))
        return _summed(self.objective.figures(self.codec, images, eps)) | self.codec.tally(images)

    def told(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {name: float(sums[name] / sums["count"]) for name in self.objective.names} | self.codec.told(sums)


def _summed(figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the float64 sums of values (B,), and B as "count"."""
    sums = {name: values.detach().cpu().double().sum() for name, values in figures.items()}
    return sums | {"count": torch.tensor(float(len(next(iter(figures.values())))), dtype=torch.float64)}


def _flipped(batch: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
    """Mirror each image left to right where u: (B,) is below 0.5, and use the mirrored image's latent."""
    mirrored = (u < 0.5)[:, None, None, None]
    turned = {"image": torch.where(mirrored, batch["image"].flip(-1), batch["image"])}
    if "latent" in batch:
        turned["latent"] = torch.where(mirrored, batch["mirrored_latent"], batch["latent"])
    return batch | turned
