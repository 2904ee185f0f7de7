"""Two and three real processes over gloo give what one process gives."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch import distributed as dist
from torch import multiprocessing as mp

from conftest import (
    REPOSITORY,
    Projection,
    Specks,
    fit,
    point_pipeline,
    tiny_pipeline,
    tiny_recipe,
    tiny_system,
    tiny_trainer,
    two_ranks,
    weights,
)
from denoiselab import distributed
from denoiselab.conditioning.wishes import balanced_labels
from denoiselab.data.points import Points, moons
from denoiselab.likelihood import VariationalBound
from denoiselab.metrics import (
    FID,
    KID,
    MMD,
    ClassAccuracy,
    DensityCoverage,
    Evaluation,
    Figure,
    InceptionScore,
    LikelihoodEvaluation,
    Looked,
    Memorisation,
    PointEvaluation,
    PrecisionRecall,
    SpatialFID,
    Statistics,
    trained_classifier,
)
from denoiselab.objectives import WeightedMSE
from denoiselab.pictures import grid
from denoiselab.randomness import generator
from denoiselab.samplers import DDIM
from denoiselab.spacings import Trailing
from denoiselab.time_sampling import LossSecondMoment, Uniform
from denoiselab.weightings import Simple
from gathered import same, without_times

N, BATCH = 21, 4  # five batches and a sample, so that the ranks have unequal shares


def rows() -> Tensor:
    return torch.randn(N, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 2


class Seeing(Projection):
    """With spatial features and classes of its own, those of the data."""

    knows_classes = True

    def look(self, images: Tensor) -> Looked:
        features = super().look(images).features
        return Looked(features, images.flatten(1)[:, ::3].double(), features[:, :3])


FIGURES: dict[str, Figure] = {
    "fid": FID(resamples=5),
    "class_accuracy": ClassAccuracy(),
    "sfid": SpatialFID(),
    "kid": KID(),
    "mmd": MMD(),
    "inception_score": InceptionScore(2),
    "precision_recall": PrecisionRecall(),
    "density_coverage": DensityCoverage(),
    "memorisation": Memorisation(),
}


def generated(indices: Sequence[int]) -> Tensor:
    """By a U-Net in float32, which rounds differently in batches of other sizes."""
    pipeline, labels = tiny_pipeline(unet=True), balanced_labels(indices, 3)
    return torch.cat([b.images for b in pipeline.generate(tiny_recipe(), indices, labels, 2, BATCH)])


def evaluated(n: int, cache: Path) -> dict[str, Any]:
    """By a reference of 1,300 images, so that each rank looks at some of them."""
    pipeline, evaluation = tiny_pipeline(unet=True), Evaluation(Specks(train=1300), Seeing(), cache, FIGURES)
    return evaluation(pipeline, tiny_recipe(), n, seed=2, batch_size=BATCH)


def of_points(n: int) -> dict[str, Any]:
    source = Points("moons", moons, train=64, test=32, dim=5)
    evaluation = PointEvaluation(source)
    return evaluation(point_pipeline(source), tiny_recipe(clip=False), n, seed=2, batch_size=BATCH)


def likelihood(n: int) -> dict[str, float]:
    return LikelihoodEvaluation(Specks(), VariationalBound(20, 4), n, BATCH)(tiny_pipeline(unet=True)).logged


def gathered(indices: Sequence[int]) -> Statistics:
    """Also on a rank that has no samples."""
    made, i = Statistics(N, keep=9), list(indices)
    if i:
        made.update(i, Looked(rows()[i]), torch.zeros(len(i), 1, 2, 2, dtype=torch.uint8), torch.tensor(i) % 3)
    return made


def one_rank(rank: int, folder: Path, world_size: int) -> None:
    """What a rank finds, written to a file."""
    rendezvous = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)
    mine = distributed.share(N, BATCH)
    source, first = Specks(train=64), int(rank == 0)
    found = {
        "place": (distributed.rank(), distributed.world_size()),
        "mine": mine,
        "floats": distributed.collect(rows()[list(mine)].float(), mine, N),
        "images": distributed.collect(generated(mine), mine, N),
        "on rank 0 alone": distributed.collect(torch.full((first, 2), 200, dtype=torch.uint8), range(first), 1),
        "statistics": gathered(mine).reduced().state_dict(),
        "on the last rank alone": gathered(range(N) if rank == world_size - 1 else []).reduced().state_dict(),
        "sum": distributed.all_sum(torch.tensor([rank + 1, 10])),
        "figures": {n: evaluated(n, folder / "cache") for n in (2, N)},
        "points": of_points(N),
        "likelihood": {n: likelihood(n) for n in (2, N)},
        "classifier": trained_classifier(source, folder / "classifier").name,
    }
    torch.save(found, folder / f"rank_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory) -> list[dict[str, Any]]:
    folder, world_size = tmp_path_factory.mktemp("ranks"), request.param
    mp.spawn(one_rank, (folder, world_size), nprocs=world_size)
    assert len(list((folder / "classifier").iterdir())) == 1
    made = sorted(path.name.split("-")[1] for path in (folder / "cache").iterdir())
    assert made == ["floor", "floor", "test", "test", "train"], "of n = 2 and n = N; no lock is left"
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in range(world_size)]


@pytest.mark.slow
def test_every_index_is_on_exactly_one_rank(ranks):
    assert [found["place"] for found in ranks] == [(rank, len(ranks)) for rank in range(len(ranks))]
    assert sorted(chain.from_iterable(found["mine"] for found in ranks)) == list(range(N))
    assert ranks[1]["mine"][:BATCH] == list(range(BATCH, 2 * BATCH))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_the_batches_of_all_ranks_are_those_of_one_process_in_turn(monkeypatch, world_size, batch_size):
    """Every n; that there are other processes is feigned, as share asks them nothing."""
    monkeypatch.setattr(distributed, "world_size", lambda: world_size)
    for n in [*range(25), 100, 101]:
        batches = []
        for rank in range(world_size):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            mine = distributed.share(n, batch_size)
            batches.append([mine[i : i + batch_size] for i in range(0, len(mine), batch_size)])  # as in generate
        whole = [list(range(i, min(n, i + batch_size))) for i in range(0, n, batch_size)]
        assert [batches[i % world_size][i // world_size] for i in range(len(whole))] == whole
        assert sum(map(len, batches)) == len(whole)
        even = math.ceil(math.ceil(n / world_size) / batch_size)
        assert max(map(len, batches)) == even, "no more batches than by even shares of the samples"


def test_what_is_collected_is_whole_and_in_order_on_all_ranks(ranks):
    for found in ranks:
        assert torch.equal(found["floats"], rows().float())
        assert found["on rank 0 alone"].tolist() == [[200, 200]]
        assert found["on rank 0 alone"].dtype == torch.uint8
        assert found["sum"].tolist() == [sum(range(len(ranks) + 1)), 10 * len(ranks)]


def test_the_images_of_several_processes_are_those_of_one_bit_by_bit(ranks):
    whole = generated(range(N))
    for found in ranks:
        assert torch.equal(found["images"], whole)


@pytest.mark.parametrize("name", ["statistics", "on the last rank alone"])
def test_statistics_of_several_processes_are_those_of_one(ranks, name):
    known = rows().numpy()
    for found in ranks:
        reduced = Statistics(N, keep=9).load_state_dict(found[name])
        assert reduced.features.count == N
        np.testing.assert_allclose(reduced.features.mean, known.mean(0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(reduced.features.covariance, np.cov(known, rowvar=False), rtol=0, atol=1e-12)
        assert torch.equal(reduced.kept, rows()[:9])
        assert reduced.labels.tolist() == [0, 1, 2] * 3


@pytest.mark.parametrize("n", [2, N])
def test_the_likelihood_of_several_processes_is_that_of_one_bit_by_bit(ranks, n):
    alone = likelihood(n)
    for found in ranks:
        assert found["likelihood"][n] == alone


@pytest.mark.parametrize("n", [2, N])
def test_figures_of_several_processes_are_those_of_one_and_the_same_on_all(ranks, n, tmp_path):
    """To 1e-9: the images are equal bit by bit, and the sums of their features are taken in another order.

    Two images have a singular covariance, whose square root makes 1e-8 of that."""
    alone = evaluated(n, tmp_path)
    for found in ranks:
        assert same(found["figures"][n], alone, rel=1e-9 if n > 2 else 1e-6)
        assert found["figures"][n] == ranks[0]["figures"][n]
    assert n == 2 or {"sfid", "kid", "inception_score", "coverage", "nearest_train", "class_accuracy"} <= set(alone)


def test_figures_of_points_of_several_processes_are_those_of_one_bit_by_bit(ranks):
    alone = of_points(N)
    for found in ranks:
        for name in ("sliced_wasserstein", "off_plane", "floor", "n"):
            assert found["points"][name] == alone[name]


@pytest.mark.slow
def test_one_process_trains_the_classifier_for_all(ranks, tmp_path):
    alone = trained_classifier(Specks(train=64), tmp_path).name
    assert all(found["classifier"] == alone for found in ranks)


def test_in_one_process_there_is_nothing_to_share_or_to_sum():
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.share(5, 2) == [0, 1, 2, 3, 4]
    assert torch.equal(distributed.all_sum(rows()), rows())
    assert torch.equal(distributed.collect(rows(), range(N), N), rows())
    distributed.barrier()


def test_collect_puts_rows_where_they_belong_in_one_process_too():
    assert distributed.collect(torch.tensor([10, 11, 12]), [2, 0, 1], 3).tolist() == [11, 12, 10]


def a_training_rank(rank: int, folder: Path) -> None:
    """A rank of Lightning's own DDP: four steps with pictures and figures, then validation."""
    import pytorch_lightning as pl

    from denoiselab.training.callbacks import Checkpoint, DenoisingStrip, Evaluate, SampleGrid

    class Seen(pl.Callback):
        def __init__(self) -> None:
            self.times: list[Tensor] = []
            self.images: list[Tensor] = []
            self.gradients: list[Tensor] = []
            self.affordable, self.by_log_snr = 0, []

        def on_train_batch_start(self, trainer, system, batch, batch_idx) -> None:
            self.times.append(system.times(len(batch["image"]), batch_idx)[1])
            self.images.append(batch["image"])

        def on_before_optimizer_step(self, trainer, system, optimizer) -> None:
            self.gradients.append(torch.cat([p.grad.flatten() for p in system.pipeline.parameters()]))

        def on_train_end(self, trainer, system) -> None:
            """Rank 1 takes at least .05 s a batch."""
            made = tiny_system(recipe=tiny_recipe(Sleepy(0.05 * rank)))
            counting = Evaluate(lambda: Evaluation(Specks(), Projection(), folder), batch_size=BATCH, max_seconds=1.0)
            self.affordable = counting.affordable(made, 10_000)
            self.by_log_snr = by_log_snr()

    system, seen = tiny_system(tiny_pipeline(unet=True, dropout=0.2), seed=3), Seen()
    evaluate = Evaluate(lambda: Evaluation(Specks(), Projection(), folder / "cache"), n=7, every=2, batch_size=BATCH)
    beside = [
        seen,
        SampleGrid(n=5, columns=3, every=2),
        DenoisingStrip(n=2, moments=2, every=2),
        evaluate,
        Checkpoint(every_n_train_steps=3),
    ]
    fit(system, folder, steps=4, callbacks=beside, validate_every=2, devices=2, strategy="ddp")
    trained = weights(system.pipeline)

    alike, learning = learner()
    fit(alike, folder / "history", steps=3, source=Specks(flip=True), devices=2, strategy="ddp")

    found = {
        "times": seen.times,
        "images": seen.images,
        "gradient": seen.gradients[0],
        "affordable": seen.affordable,
        "by log-SNR": seen.by_log_snr,
        "alike": weights(alike.pipeline),
        "history": learning.history,
        "counts": learning.counts,
        "weights": trained,
        "average": torch.cat([s.flatten() for s in system.ema.shadow]),
        "figures": without_times(system.figures),
        "validated": {test: validated(test, folder, devices=2, strategy="ddp") for test in (1, 21)},
    }
    torch.save(found, folder / f"rank_{rank}.pt")


def by_log_snr() -> list[tuple[float, ...]]:
    """The errors of an untrained U-Net."""
    from denoiselab.training.callbacks import LossByLogSNR

    system = tiny_system(tiny_pipeline(unet=True))
    return [astuple(row) for row in LossByLogSNR(batch_size=BATCH).measured(system, Specks())]


class Sleepy:
    """A sampler that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.sampler = seconds, DDIM(1, Trailing())

    def __call__(self, *args: Any) -> Tensor:
        time.sleep(self.seconds)
        return self.sampler(*args)


def learner() -> tuple[Any, LossSecondMoment]:
    """A system that draws all there is to draw but dropout, and its times by what it has learned."""
    learning = LossSecondMoment(T=8, history=1)
    return tiny_system(tiny_pipeline(unet=True), objective=WeightedMSE(Simple(), learning), flip=True), learning


def validated(test: int, folder: Path, **trainer: Any) -> dict[str, float]:
    """The losses of an untrained U-Net on so many test images."""
    from denoiselab.data import ImageDataModule

    system, data = tiny_system(tiny_pipeline(unet=True)), ImageDataModule(Specks(test=test), 8, 0)
    tiny_trainer(folder, **trainer).validate(system, datamodule=data, verbose=False)
    return system.losses


@pytest.fixture(scope="module")
def trained_ranks(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("training")
    return folder, two_ranks(a_training_rank, folder)


@pytest.mark.slow
def test_the_times_of_two_ranks_are_together_the_stratified_global_batch(trained_ranks):
    _, ranks = trained_ranks
    assert len(ranks[0]["times"]) == 4
    for k, (one, other) in enumerate(zip(*(found["times"] for found in ranks), strict=True)):
        together = torch.stack([one, other], 1).flatten()
        assert torch.equal(together, Uniform(stratified=True)(8, generator(3, "time", k)))
        assert torch.equal((8 * together).ceil().sort().values, torch.arange(1.0, 9, dtype=torch.float64))


@pytest.mark.slow
def test_the_images_of_two_ranks_are_together_the_global_batch_of_one(trained_ranks):
    from denoiselab.data import BatchStream

    _, ranks = trained_ranks
    for k, (one, other) in enumerate(zip(*(found["images"] for found in ranks), strict=True)):
        alone = Specks().train.__getitems__(BatchStream(48, 8, seed=3).batch(k))["image"]
        assert torch.equal(torch.stack([one, other], 1).flatten(0, 1), alone)


@pytest.mark.slow
def test_the_gradient_of_two_ranks_is_that_of_the_mean_over_the_global_batch(trained_ranks):
    """To float32's rounding. One process computes both parts, each with the noise of its rank, which is feigned."""
    from denoiselab.data import BatchStream

    system, losses = tiny_system(tiny_pipeline(unet=True, dropout=0.2), seed=3), []
    for rank in range(2):
        system._trainer = SimpleNamespace(world_size=2, global_rank=rank)
        batch = Specks().train.__getitems__(BatchStream(48, 8, 3, rank=rank, world_size=2).batch(0))
        losses.append(system.training_step(batch, 0))
    torch.stack(losses).mean().backward()
    whole = torch.cat([p.grad.flatten() for p in system.pipeline.parameters()])
    for found in trained_ranks[1]:
        assert float((found["gradient"] - whole).norm() / whole.norm()) < 1e-6


@pytest.mark.slow
def test_a_training_on_two_ranks_is_the_one_on_one_up_to_rounding(trained_ranks, tmp_path):
    """Images, mirrorings, dropped classes, noise and times are the same: to 1e-3 of the way gone."""
    alone, learning = learner()
    start = weights(alone.pipeline)
    fit(alone, tmp_path, steps=3, source=Specks(flip=True))
    end = weights(alone.pipeline)
    for found in trained_ranks[1]:
        assert float((found["alike"] - end).norm() / (end - start).norm()) < 1e-3
        torch.testing.assert_close(found["history"], learning.history, rtol=1e-4, atol=0)


@pytest.mark.slow
def test_two_ranks_learn_from_the_losses_of_both(trained_ranks):
    _, (one, other) = trained_ranks
    assert torch.equal(one["history"], other["history"])
    assert torch.equal(one["counts"], other["counts"])
    assert int(one["counts"].sum()) == 3 * 8  # steps, images of a global batch
    # The first global batch's eight times fall one into each eighth; after it the history says what is drawn.
    assert (one["counts"] >= 1).all()
    assert one["counts"].tolist() != [3] * 8
    assert (one["history"] > 0).all()


@pytest.mark.slow
def test_two_ranks_end_with_the_same_weights_average_and_figures(trained_ranks):
    _, (one, other) = trained_ranks
    assert torch.equal(one["weights"], other["weights"])
    assert torch.equal(one["average"], other["average"])
    assert not torch.equal(one["weights"], weights(tiny_pipeline(unet=True)))
    assert one["figures"] == other["figures"]
    assert one["figures"]["n"] == 7


@pytest.mark.slow
def test_two_ranks_agree_on_the_number_of_samples_that_the_slower_one_can_make(trained_ranks):
    """Of .05 s a batch or more, at most 20 fit into a second; the other rank alone would make many more."""
    one, other = (found["affordable"] for found in trained_ranks[1])
    assert one == other
    assert 2 * BATCH <= one <= 2 * 20 * BATCH
    assert one % (2 * BATCH) == 0


@pytest.mark.slow
def test_the_errors_by_log_snr_of_two_ranks_are_those_of_one_bit_by_bit(trained_ranks):
    for found in trained_ranks[1]:
        assert found["by log-SNR"] == by_log_snr()


@pytest.mark.slow
@pytest.mark.parametrize("test", [1, 21])
def test_two_ranks_validate_every_image_once(trained_ranks, tmp_path, test):
    """An odd number: none is repeated to make the shares equal; a single one leaves a rank without."""
    alone = validated(test, tmp_path)
    assert alone["val/loss"] > 0
    for found in trained_ranks[1]:
        assert found["validated"][test] == pytest.approx(alone, rel=1e-6)


@pytest.mark.slow
def test_two_ranks_write_each_file_once_and_the_grid_is_that_of_one_process(trained_ranks, tmp_path):
    folder, (found, _) = trained_ranks
    files = {str(p.relative_to(folder)) for p in folder.rglob("*.*") if p.is_file() and p.parent.name != "cache"}
    pictures = {f"samples/{name}_{step}.png" for name in ("step", "denoising") for step in (2, 4)}
    checkpoints = {f"checkpoints/{name}.ckpt" for name in ("last", "previous", "best")}
    assert files == pictures | checkpoints | {"rank_0.pt", "rank_1.pt"}

    average = tiny_pipeline(unet=True)
    torch.nn.utils.vector_to_parameters(found["average"], average.parameters())
    (made,) = average.generate(tiny_recipe(), range(5), balanced_labels(range(5), 3), 0, 5)
    picture = np.asarray(Image.open(folder / "samples" / "step_4.png")).astype(int)
    assert abs(picture - grid(made.images, 3).astype(int)).max() <= 1


WORDS = """
    trainer=ddp_cpu trainer.max_steps=5 trainer.val_check_interval=2 batch_size=8 seed=1 likelihood.n=9
    likelihood.batch_size=4 data=image_folder data.root=images data.size=8 data.channels=1 backbone.channels=8
    sampler.steps=3 metrics.n=11 metrics.batch_size=4 metrics.every=2 callbacks.samples.n=7
    callbacks.samples.columns=2 callbacks.samples.every=2 callbacks.samples.batch_size=2 callbacks.denoising.n=1
"""


def said(command: str, words: str, folder: Path) -> str:
    """What a command has printed, run in a folder."""
    told = [sys.executable, str(REPOSITORY / f"{command}.py"), *words.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(told, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> tuple[Path, str]:
    """The run's folder of a U-Net trained by two processes, and what they have said."""
    folder, rng = tmp_path_factory.mktemp("two_processes"), np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(80):
            image = Image.fromarray(rng.integers(low, low + 128, (8, 8), dtype=np.uint8))
            image.save(folder / "images" / name / f"{i}.png")
    told = said("train", WORDS, folder)
    (run,) = (folder / "outputs" / "default").iterdir()
    return run, told


@pytest.mark.slow
def test_the_command_line_trains_on_two_processes_in_one_folder_as_one_run(two_processes):
    folder, told = two_processes
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    figures = json.loads((folder / "metrics.json").read_text())
    assert (figures["n"], figures["step"], figures["seed"]) == (11, 5, 1)
    assert figures["val/loss"] > 0
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 5
    assert state["ema"]["updates"] == 5
    assert (folder / "samples" / "step_5.png").exists()
    assert not list(folder.rglob("*.part"))
    assert told.count("Traceback") == 0
    assert told.count("metrics.json") == 1, "one process speaks"


@pytest.mark.slow
def test_one_process_finds_the_figures_of_two_and_draws_their_images(two_processes):
    """A U-Net in float32, in batches as large as theirs; its weights come from the checkpoint. The sums of features are
    taken in another order, which FID's square root of a singular covariance, of 11 images, makes 1e-8 of."""
    folder, _ = two_processes
    words = f"run={folder} hydra.run.dir={folder}/alone likelihood=bound likelihood.n=9 likelihood.batch_size=4"
    said("evaluate", f"{words} seed=1 n=11 batch_size=4 device=cpu", folder.parents[2])
    trained, alone = (json.loads((folder / where / "metrics.json").read_text()) for where in (".", "alone"))
    assert alone["fid"] == pytest.approx(trained["fid"], rel=1e-7)
    for name in ("floor", "class_accuracy", "bits_per_dim", "bits_per_dim_error", "n", "nfe", "sample_seed"):
        assert alone[name] == trained[name], name
    said("sample", f"run={folder} hydra.run.dir={folder}/drawn n=7 seed=1 batch_size=2 device=cpu", folder.parents[2])
    made = torch.stack([torch.tensor(read(folder / "drawn" / "images" / f"{i:05d}.png")) for i in range(7)])
    assert np.array_equal(read(folder / "samples" / "step_5.png"), grid(made[:, None], 2))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)
