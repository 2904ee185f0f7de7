"""Two real processes over gloo that do not agree: each way stops both, with the reason."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_finite import Holes

from conftest import fit, tiny_system, two_ranks, weights
from denoiselab.errors import UserError
from denoiselab.training.callbacks.ranks import checksum

CASES = ("config", "noise", "weights", "average", "other average", "buffer", "nan", "nan skipped", "agree")


def a_rank(rank: int, folder: Path) -> None:
    """Trains in each of the cases; what stops it, and the weights after each step, go to a file."""
    import pytorch_lightning as pl

    from denoiselab.ema import EMA
    from denoiselab.training.callbacks import Checkpoint, Finite, RankSafety

    class Perturb(pl.Callback):
        """On rank 1 one bit of one number, after the third step; one that the next average does not round away.

        Of a buffer after the fourth: before each step all processes are given rank 0's.
        """

        seen: list[torch.Tensor] = []

        def on_train_batch_end(self, trainer, system, *_) -> None:
            self.seen.append(weights(system.pipeline))
            number = {
                "weights": next(system.pipeline.parameters()).data,
                "average": system.ema.shadow[0],
                "other average": system.ema.shadows[-1][0],
                "buffer": system.pipeline.beside,
            }.get(case)
            if number is not None and rank == 1 and trainer.global_step == (4 if case == "buffer" else 3):
                number.view(torch.int32).view(-1)[0] ^= 1 << 8

    found: dict[str, Any] = {}
    for case in CASES:
        Perturb.seen, told = [], None
        config = {"seed": rank if case == "config" else 0}
        described = {"image_shape": [1, 4, 4], "num_classes": 3, "config": config}
        system = tiny_system(description=described, ema=EMA([0.5, 0.9]))
        system.pipeline.register_buffer("beside", torch.ones(3))
        # Only rank 1's batch has a NaN: the ranks take every second image of a batch.
        source = Holes(in_batch_of_rank_one() if case.startswith("nan") else [])
        guard = Finite("skip" if case == "nan skipped" else "stop")
        beside = [guard, Perturb(), RankSafety(every=2), Checkpoint(1)]
        if case == "noise":
            system.drawn = lambda draw, rng, n, *shape: draw(n, *shape, generator=rng)
        where = folder / case
        try:
            fit(system, where, steps=6, callbacks=beside, source=source, devices=2, strategy="ddp")
        except UserError as error:
            told = str(error)
        found[case] = {"told": told, "weights": Perturb.seen, "skipped": guard.skipped}
    torch.save(found, folder / f"rank_{rank}.pt")


def in_batch_of_rank_one() -> list[int]:
    from denoiselab.data.datamodule import BatchStream

    return BatchStream(48, 8, seed=0, rank=1, world_size=2).batch(3)[:1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def both(folder) -> list[dict[str, Any]]:
    return two_ranks(a_rank, folder)


def saved_step(run: Path) -> int | None:
    path = run / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["global_step"] if path.exists() else None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "told", "steps", "saved"),
    [
        ("config", "the processes have different configurations (process 0: ", 0, None),
        ("noise", "processes draw the same noise (process 0: ", 0, None),
        ("weights", "the processes have different weights at step 4 (process 0: ", 4, 3),
        ("average", "the processes have different weights at step 4 (process 0: ", 4, 3),
        ("other average", "the processes have different weights at step 4 (process 0: ", 4, 3),
        ("buffer", "the processes have different weights at step 4 (process 0: ", 4, 3),
        ("nan", "step 4: the gradients are NaN or infinite; ", 3, 3),
    ],
)
def test_both_processes_stop_at_the_same_step_and_say_why(both, case, told, steps, saved, folder):
    for rank in both:
        assert rank[case]["told"].startswith(told)
        assert "\n" not in rank[case]["told"]
        assert len(rank[case]["weights"]) == steps
    assert saved_step(folder / case) == saved


@pytest.mark.slow
def test_a_batch_that_is_bad_on_one_process_is_left_out_on_both(both):
    for rank in both:
        assert rank["nan skipped"]["told"] is None
        assert rank["nan skipped"]["skipped"] == 1
        seen = rank["nan skipped"]["weights"]
        assert torch.equal(seen[2], seen[3])
        assert not torch.equal(seen[3], seen[4])
    assert torch.equal(both[0]["nan skipped"]["weights"][-1], both[1]["nan skipped"]["weights"][-1])


@pytest.mark.slow
def test_processes_that_agree_are_left_alone(both, folder):
    for rank in both:
        assert rank["agree"]["told"] is None
    assert saved_step(folder / "agree") == 6
    assert torch.equal(both[0]["agree"]["weights"][-1], both[1]["agree"]["weights"][-1])


def test_the_checksum_sees_every_bit_and_the_place_of_every_tensor():
    tensors = [torch.randn(3, 4), torch.randn(5, dtype=torch.float64), torch.randn(2).half(), torch.ones(2) > 0]
    before = checksum(tensors)
    assert checksum([t.clone() for t in tensors]) == before
    for tensor, kind in zip(tensors, (torch.int32, torch.int64, torch.int16, torch.int8), strict=True):
        tensor.view(kind).view(-1)[1] ^= 1
        assert checksum(tensors) != before
        tensor.view(kind).view(-1)[1] ^= 1
    one, other = torch.ones(2), torch.full((2,), 2.0)
    assert checksum([one, other]) != checksum([other, one])
