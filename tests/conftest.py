"""Small real parts that the tests share: a data set, a feature extractor, a pipeline, a system and a trainer.

Its presence puts tests/ on the path, so that test files can import it, and share `cases`.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch import multiprocessing as mp

from denoiselab import schedules
from denoiselab.backbones import MLP, UNet
from denoiselab.codecs import Codec, Identity
from denoiselab.conditioning import ClassLabel, Unconditional
from denoiselab.data.points import Points
from denoiselab.data.source import InMemory, Source
from denoiselab.denoiser import Denoiser
from denoiselab.guidance import ClassifierFree, Guidance
from denoiselab.metrics import Extractor, Looked
from denoiselab.parameterizations import V
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.samplers import DDIM, Sampler
from denoiselab.spacings import Trailing
from denoiselab.thresholding import Clip

if TYPE_CHECKING:  # Lightning takes seconds to import, and processes that do without it import this file too
    from omegaconf import DictConfig
    from pytorch_lightning import Callback, Trainer

    from denoiselab.training.system import DiffusionSystem

REPOSITORY = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)  # threads that wait for one another cost these small tensors more than they bring, tenfold


class Specks(Source):
    """Random images of 4 x 4 pixels in three classes; no image equals its own mirror image."""

    name = "specks"
    class_names = ("a", "b", "c")
    shape = (1, 4, 4)

    def __init__(self, train: int = 48, test: int = 21, flip: bool = False) -> None:
        self.sizes, self.flip = (train, test), flip

    @cached_property
    def train(self) -> InMemory:
        return self._random(0)

    @cached_property
    def test(self) -> InMemory:
        return self._random(1)

    def _random(self, split: int) -> InMemory:
        rng = torch.Generator().manual_seed(split)
        labels = torch.randint(3, (self.sizes[split],), generator=rng)
        images = (
            torch.randint(50, 150, (self.sizes[split], *self.shape), generator=rng) + 40 * labels[:, None, None, None]
        )
        return InMemory(images.to(torch.uint8), labels)


class Projection(Extractor):
    """A fixed random linear map of the pixels, in float64."""

    name, digest = "projection", "0" * 16

    def __init__(self, dim: int = 6, pixels: int = 16) -> None:
        super().__init__()
        self.dim = self.num_features = dim  # the second is torchmetrics' word
        weight = torch.randn(pixels, dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def look(self, images: Tensor) -> Looked:
        return Looked(images.flatten(1).double() / 255 @ self.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)


def tiny_pipeline(seed: int = 0, unet: bool = False, dropout: float = 0.0, codec: Codec | None = None) -> Pipeline:
    """A pipeline for Specks; no weight is 0, so that no part of the network is silent."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        conditioner, shape = ClassLabel(3, dim=4, drop=0.2), Specks.shape
        backbone = (
            UNet(shape, 4, channels=8, multipliers=[1], blocks=1, attention=[4], heads=2, dropout=dropout)
            if unet
            else MLP(shape, 4, width=16, depth=1)
        )
        pipeline = Pipeline(
            Denoiser(backbone, schedules.cosine(), V()), conditioner, Identity() if codec is None else codec, shape
        )
        for parameter in pipeline.parameters():
            nn.init.normal_(parameter, std=0.2)
    return pipeline


def point_pipeline(source: Points, seed: int = 0, cond_dim: int = 0) -> Pipeline:
    """A pipeline for points; no weight is 0."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        conditioner = ClassLabel(source.num_classes, cond_dim, drop=0.2) if cond_dim else Unconditional()
        backbone = MLP(source.shape, cond_dim, width=16, depth=1)
        denoiser = Denoiser(backbone, schedules.cosine(), V())
        pipeline = Pipeline(denoiser, conditioner, Identity(), source.shape)
        for parameter in pipeline.parameters():
            nn.init.normal_(parameter, std=0.2)
    return pipeline


def tiny_recipe(sampler: Sampler | None = None, guidance: Guidance | None = None, clip: bool = True) -> Recipe:
    return Recipe(
        DDIM(5, Trailing()) if sampler is None else sampler,
        ClassifierFree(1.5) if guidance is None else guidance,
        Clip() if clip else None,
        {"sampler": "DDIM", "sampler.steps": 5},
    )


def tiny_system(pipeline: Pipeline | None = None, seed: int = 0, **changes: Any) -> "DiffusionSystem":
    from denoiselab.ema import EMA
    from denoiselab.objectives import WeightedMSE
    from denoiselab.optimizers import adamw
    from denoiselab.time_sampling import Uniform
    from denoiselab.training.system import DiffusionSystem
    from denoiselab.weightings import Simple

    parts: dict[str, Any] = {
        "pipeline": tiny_pipeline() if pipeline is None else pipeline,
        "objective": WeightedMSE(Simple(), Uniform(stratified=True)),
        "recipe": tiny_recipe(),
        "optimizer": partial(adamw, lr=1e-2, warmup_steps=2),
        "ema": EMA(0.5),
        "seed": seed,
        "description": {"image_shape": [1, 4, 4], "num_classes": 3},
    }
    return DiffusionSystem(**parts | changes)


def fit(
    system: "DiffusionSystem",
    folder: Path,
    steps: int = 4,
    callbacks: "Sequence[Callback]" = (),
    source: Source | None = None,
    batch_size: int = 8,
    validate_every: int | None = None,
    **trainer: Any,
) -> "Trainer":
    """Trains with the real trainer, as the command line sets it up."""
    from denoiselab.data import ImageDataModule

    made = tiny_trainer(
        folder, max_steps=steps, callbacks=list(callbacks), val_check_interval=validate_every or 1000, **trainer
    )
    made.fit(system, datamodule=ImageDataModule(source or Specks(), batch_size, seed=system.seed))
    return made


def tiny_trainer(folder: Path, **changes: Any) -> "Trainer":
    from denoiselab.training.checkpoint_io import WholeFiles
    from denoiselab.training.trainer import trainer

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # else a line on each trainer made
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "plugins": [WholeFiles()],
        "devices": 1,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    }
    return trainer(**options | changes)


PATIENCE = 200  # seconds


def two_ranks(work: Callable[[int, Path], None], folder: Path) -> list[dict[str, Any]]:
    """What work(rank, folder) has saved as rank_<rank>.pt in two processes, which Lightning takes for its ranks.

    Processes that wait for one another for longer than PATIENCE are ended.
    """
    processes, until = mp.spawn(_a_rank, (work, folder, free_port()), nprocs=2, join=False), time.monotonic() + PATIENCE
    while not processes.join(timeout=1):
        if time.monotonic() > until:
            for process in processes.processes:
                process.kill()
            pytest.fail(f"the two processes were still waiting for one another after {PATIENCE} s")
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in range(2)]


def _a_rank(rank: int, work: Callable[[int, Path], None], folder: Path, port: int) -> None:
    place = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in place.items()}
    work(rank, folder)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def composed(words: str, folder: Path) -> "DictConfig":
    """conf/train.yaml with these words, for a run in `folder`."""
    from denoiselab.assembly.configuration import composed as train

    folder.mkdir(parents=True)
    return train("train", words.split())


class Trained(NamedTuple):
    cfg: "DictConfig"
    headline: float | None


def trained(words: str, folder: Path) -> Trained:
    """A training with these words in `folder`, as the command line starts it, in this process."""
    from hydra.types import RunMode

    from denoiselab.assembly.configuration import Loader, without_hydra
    from denoiselab.training.start import Start
    from denoiselab.training.train import train

    folder.mkdir(parents=True)
    whole = Loader("train").load_configuration("train", words.split(), RunMode.RUN)
    choices = {k: v for k, v in whole.hydra.runtime.choices.items() if v is not None and not set("/@") & set(k)}
    cfg = without_hydra(whole)
    return Trained(cfg, train(cfg, Start(folder, choices, choices["experiment"])))


def planned(words: list[str], multirun: bool = False, command: str = "train") -> "list[DictConfig]":
    """The checked configurations of the jobs of a command line, of which none is run."""
    from denoiselab.assembly.configuration import Loader
    from denoiselab.cli.entry import Plan
    from denoiselab.cli.sweeps import Sweeps

    swept = Sweeps()
    try:
        return Plan.made(Loader(command), words, multirun, swept).jobs
    finally:
        swept.close()


def weights(module: nn.Module) -> Tensor:
    """All parameters of a module, one after the other."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def pytest_configure(config: pytest.Config) -> None:
    for message in (".*treespec, LeafSpec.*", ".*does not have many workers.*", ".*callbacks used to create the.*"):
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


@pytest.fixture(autouse=True)
def _same_random_numbers_in_any_order_of_the_tests():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the digits' classifier, which all of pytest's processes share: the first to need it trains it."""
    from denoiselab.data import Digits
    from denoiselab.metrics import trained_classifier

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "digits_cache"
    trained_classifier(Digits(), folder)
    return folder


@pytest.fixture
def float64():
    """New tensors and networks are float64, in which batches of other sizes cannot tip a pixel's rounding."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(kept)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first. Those of a file stay together in one of pytest's processes, as they share fixtures."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    for item in items:
        kind = "slow" if item.get_closest_marker("slow") else "quick"
        item.add_marker(pytest.mark.xdist_group(f"{kind} {item.path.stem}"))
