"""Two real processes over gloo that share out the weights train what DDP trains, in half of the memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import Projection, Specks, tiny_pipeline, tiny_recipe, tiny_system, tiny_trainer, two_ranks, weights
from denoiselab.assembly.configuration import composed
from denoiselab.conditioning.wishes import balanced_labels
from denoiselab.ema import EMA
from denoiselab.metrics import Evaluation
from denoiselab.training import processes as ranks

BATCH, PATIENCE = 2, 200  # images at once, so that the ranks call the network different numbers of times; seconds
STRATEGIES = ("fsdp", "ddp")
VARIANTS: dict[str, dict[str, Any]] = {
    "clipped": {"gradient_clip_val": 0.1},
    "parts": {"accumulate_grad_batches": 2, "gradient_checkpointing": True},
    "bf16-true": {"precision": "bf16-true"},
    "bf16-mixed": {"precision": "bf16-mixed"},
}


def sgd(parameters, max_steps):
    """Its steps are of the size of the gradient, while those of Adam make much of what rounding leaves of 0."""
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)


def trained(
    folder: Path,
    strategy: str,
    steps: int = 4,
    before: Path | None = None,
    beside: bool = False,
    parts: dict[str, Any] | None = None,
    **options,
):
    """(system, trainer) after so many steps, those of the checkpoint `before` included."""
    from denoiselab.data import ImageDataModule
    from denoiselab.training.callbacks import Checkpoint, DenoisingStrip, Evaluate, RankSafety, SampleGrid, Snapshots

    callbacks: list[Any] = [Checkpoint(every_n_train_steps=2)]
    if beside:
        evaluation = Evaluation(Specks(), Projection(), folder.parent / "cache")
        pictures = [SampleGrid(n=7, columns=3, every=2, batch_size=BATCH), DenoisingStrip(n=2, moments=2, every=2)]
        figures = Evaluate(lambda: evaluation, n=7, every=2, batch_size=BATCH)
        callbacks = [*pictures, figures, Snapshots(2), RankSafety(every=2), *callbacks]
    parts = {"ema": EMA(0.5, sigma_rel=0.1)} | (parts or {})
    system = tiny_system(tiny_pipeline(unet=True, dropout=0.2), seed=3, **parts)
    options = {"devices": 2, "strategy": strategy, "max_steps": steps, "val_check_interval": 2} | options
    trainer = tiny_trainer(folder, callbacks=callbacks, **options)
    trainer.fit(system, datamodule=ImageDataModule(Specks(), 8, seed=3), ckpt_path=before)
    return system, trainer


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def halfway(folder: Path) -> Path:
    return folder / "checkpoints" / "previous.ckpt"


def slope(pipeline, x: Tensor) -> Tensor:
    """A gradient through the network, as guidance and the likelihood of an ODE take it."""
    x = x.clone().requires_grad_()
    with pipeline.evaluating():
        cond = pipeline.conditioner({"label": torch.zeros(len(x), dtype=torch.int64)})
        return torch.autograd.grad(pipeline.denoiser(x, torch.full((len(x),), 0.5), cond).x0.square().sum(), x)[0]


def a_rank(rank: int, folder: Path) -> None:
    from denoiselab.data import ImageDataModule

    found: dict[str, Any] = {"validated": [], "figures": []}
    for strategy in STRATEGIES:
        system, trainer = trained(folder / strategy, strategy, beside=True)
        found["figures"].append({k: v for k, v in system.figures.items() if not k.endswith("seconds")})
        untrained, data = tiny_system(), ImageDataModule(Specks(), 8, 0)
        tiny_trainer(folder, devices=2, strategy=strategy).validate(untrained, data, verbose=False)
        found["validated"].append((untrained.losses["val/loss"], system.losses["val/loss"]))
        if strategy == "fsdp":
            found |= looked_at(system, trainer, rank)
    for name, strategy, first in (("on", "fsdp", "fsdp"), ("as_ddp", "ddp", "fsdp"), ("of_ddp", "fsdp", "ddp")):
        trained(folder / name, strategy, before=halfway(folder / first))
    for name, options in VARIANTS.items():
        for strategy in STRATEGIES:
            trained(folder / name / strategy, strategy, steps=2, parts={"optimizer": sgd}, **options)
    torch.save(found, folder / f"rank_{rank}.pt")


def looked_at(system, trainer, rank: int) -> dict[str, Any]:
    """What this rank has of a sharded run, and what it has inside of an evaluation."""

    def mine(tensors) -> Tensor:
        return torch.cat([t.detach().to_local().flatten() for t in tensors])

    moments = [state["exp_avg"] for state in trainer.optimizers[0].state.values()]
    own = mine(system.parameters())
    with system.ema.swapped():
        inside = weights(system.pipeline).clone()
        slopes = [slope(system.pipeline, torch.ones(1, 1, 4, 4)) for _ in range(1 + 3 * rank)]
        made = [system.pipeline.sample(tiny_recipe(), [i], balanced_labels([i], 3), 0) for i in range(3 - 2 * rank)]
    return {
        "held": {
            "weights": len(own),
            "average": len(mine(system.ema.shadow)),
            "moments": len(mine(moments)),
        },
        "whole": sum(p.numel() for p in system.parameters()),
        "inside": inside,
        "slope": slopes[-1],
        "image": made[0].images,
        "restored": torch.equal(own, mine(system.parameters())),
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("fsdp")
    return folder, two_ranks(a_rank, folder)


def read(path: Path) -> dict[str, Any]:
    """The parts of a checkpoint that training goes on from."""
    state = torch.load(path, weights_only=True)
    return {key: state[key] for key in ("global_step", "state_dict", "ema", "optimizer_states", "lr_schedulers")}


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, part in items for k, v in leaves(part, f"{name}/{key}").items()}
    return {name: value}


def assert_same(one: Path, other: Path, atol: float) -> None:
    """Two checkpoints have the same names, kinds and values; atol 0: bit by bit."""
    a, b = leaves(read(one)), leaves(read(other))
    assert list(a) == list(b)
    for name, value in a.items():
        assert type(value) is type(b[name]), name
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, b[name], rtol=0, atol=atol, msg=lambda told, name=name: f"{name}: {told}")
        else:
            assert value == b[name], name


@pytest.mark.slow
def test_the_weights_averages_and_optimizer_state_of_shards_are_those_of_ddp_in_plain_checkpoints(runs):
    folder, _ = runs
    for path in (last, halfway):
        assert_same(path(folder / "fsdp"), path(folder / "ddp"), atol=1e-6)
    state = read(last(folder / "fsdp"))["state_dict"]
    alone = tiny_system(tiny_pipeline(unet=True)).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in alone.items()}
    assert any(not torch.equal(state[k], v) for k, v in alone.items())


@pytest.mark.slow
def test_snapshots_of_shards_are_those_of_ddp(runs):
    folder, _ = runs
    for step in (2, 4):
        ((_, width, one),), ((_, _, other),) = (
            torch.load(folder / s / "ema" / f"{step}.pt", weights_only=True) for s in STRATEGIES
        )
        assert width == 0.1
        assert list(one) == list(other)
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weights", "average", "moments"])
def test_each_rank_holds_about_half(runs, kind):
    _, (one, other) = runs
    assert one["held"][kind] + other["held"][kind] == one["whole"] == other["whole"]
    assert abs(one["held"][kind] - other["held"][kind]) < 0.02 * one["whole"]


@pytest.mark.slow
def test_a_run_goes_on_bit_by_bit_and_with_the_other_strategy(runs):
    folder, _ = runs
    assert read(halfway(folder / "fsdp"))["global_step"] == 2
    assert_same(last(folder / "on"), last(folder / "fsdp"), atol=0)
    assert_same(last(folder / "as_ddp"), last(folder / "fsdp"), atol=1e-6)
    assert_same(last(folder / "of_ddp"), last(folder / "fsdp"), atol=1e-6)


@pytest.mark.slow
def test_figures_of_an_odd_number_of_samples_are_the_same_on_both_ranks_and_those_of_ddp(runs):
    _, (one, other) = runs
    assert one["figures"] == other["figures"]
    sharded, whole = one["figures"]
    assert sharded["n"] == 7
    assert sharded["step"] == 4
    assert sharded["fid"] == pytest.approx(whole["fid"], rel=1e-3), "a rounded weight may tip a pixel"


@pytest.mark.slow
def test_validation_of_shards_is_that_of_ddp_before_any_training_too(runs):
    for found in runs[1]:
        sharded, whole = found["validated"]
        assert sharded == pytest.approx(whole, rel=1e-6)
        assert sharded[0] != sharded[1]


@pytest.mark.slow
def test_in_an_evaluation_each_rank_has_the_whole_average_to_itself_and_afterwards_its_own_weights(runs):
    folder, (one, other) = runs
    average = read(last(folder / "fsdp"))["ema"]["weights"]
    whole = torch.cat([w.flatten() for w in average.values()])
    alone = tiny_pipeline(unet=True).eval()
    torch.nn.utils.vector_to_parameters(whole, alone.parameters())
    for found in (one, other):
        assert torch.equal(found["inside"], whole)
        assert found["restored"]
        torch.testing.assert_close(found["slope"], slope(alone, torch.ones(1, 1, 4, 4)), rtol=1e-4, atol=1e-5)
        image = alone.sample(tiny_recipe(), [0], balanced_labels([0], 3), 0).images
        assert (found["image"].int() - image.int()).abs().max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_shards_clipped_in_parts_and_in_other_precisions_are_those_of_ddp(runs, name):
    """In bf16 up to its own rounding, of weights of about .2."""
    folder, _ = runs
    one, other = (read(last(folder / name / s)) for s in STRATEGIES)
    for key, value in one["state_dict"].items():
        assert value.dtype == (torch.bfloat16 if name == "bf16-true" else torch.float32)
        torch.testing.assert_close(value, other["state_dict"][key], rtol=0, atol=2e-3 if "bf16" in name else 1e-6)
    assert all(w.dtype == torch.float32 for w in one["ema"]["weights"].values())


def test_the_command_line_starts_a_process_for_each_device_that_has_a_shard():
    assert ranks.to_start(composed("train", ["trainer=fsdp_cpu"])) == 2
    assert ranks.to_start(composed("train", ["trainer=ddp_cpu", "trainer.strategy=fsdp", "trainer.devices=3"])) == 3
