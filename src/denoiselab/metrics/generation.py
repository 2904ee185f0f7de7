"""Resumable, batched generation of the samples of an evaluation; an interrupted run resumes with the same batches."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from denoiselab import distributed
from denoiselab.cache import read
from denoiselab.conditioning import Wishes
from denoiselab.files import replacing
from denoiselab.pipeline import Generated, Pipeline, Recipe
from denoiselab.progress import track

EVERY = 20.0  # seconds between writes of the partial results


class Gathered(Protocol):
    """Partial results that grow with each batch."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Generation:
    """Generate this rank's share of samples 0 ... n - 1 of a seed, each with the condition of its index.

    saved: file for the partial results, one per rank; None for no file. about: whatever else the partial results depend
    on; a file for other samples or another `about` is ignored. After the last batch, `evaluations` is the NFE,
    `sampling_seconds` the time spent in sampling alone and `seconds` the total time. All three include interrupted runs
    and are those of the slowest rank.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        recipe: Recipe,
        n: int,
        wishes: Wishes,
        seed: int,
        batch_size: int,
        saved: Path | None = None,
        about: object = None,
    ) -> None:
        self.pipeline, self.recipe, self.n, self.seed, self.batch_size = pipeline, recipe, n, seed, batch_size
        self.indices = distributed.share(n, batch_size)
        self.wishes = wishes
        self.saved = saved
        self.key = "" if saved is None else self._key((n, wishes.num_classes, seed, batch_size, about))
        self.done, self.evaluations, self.sampling_seconds = 0, 0, 0.0
        self.started = self.written = time.monotonic()

    def into(self, gathered: Gathered, description: str) -> Iterator[Generated]:
        """Yield the batches not yet in `gathered`; the caller adds them to it."""
        self._go_on(gathered)
        rest = self.indices[self.done :]
        batches = self.pipeline.generate(self.recipe, rest, self.wishes, self.seed, self.batch_size)
        with track(description, len(self.indices), quiet=distributed.rank() > 0) as advance:
            advance(self.done)
            while (batch := self._timed(batches)) is not None:
                yield batch
                self.done += len(batch.images)
                self._keep(gathered)
                advance(len(batch.images))
        self.evaluations = distributed.all_max(self.evaluations)
        self.sampling_seconds = max(distributed.gather(self.sampling_seconds))

    @property
    def seconds(self) -> float:
        return max(distributed.gather(time.monotonic() - self.started))

    def _timed(self, batches: Iterator[Generated]) -> Generated | None:
        started = time.monotonic()
        batch = next(batches, None)
        self.sampling_seconds += time.monotonic() - started
        if batch is not None:
            self.evaluations = max(self.evaluations, batch.evaluations)
        return batch

    def _go_on(self, gathered: Gathered) -> None:
        state = read(self.saved) if self.saved is not None else None
        if isinstance(state, dict) and state.get("key") == self.key:
            gathered.load_state_dict(state["gathered"])
            self.done, self.evaluations = state["done"], state["evaluations"]
            self.sampling_seconds = state["sampling_seconds"]
            self.started -= state["seconds"]

    def _keep(self, gathered: Gathered) -> None:
        now = time.monotonic()
        if self.saved is None or now - self.written < EVERY:
            return
        state = {"key": self.key, "gathered": gathered.state_dict(), "done": self.done}
        state |= {"evaluations": self.evaluations, "sampling_seconds": self.sampling_seconds}
        self.saved.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.saved) as temporary:
            torch.save(state | {"seconds": now - self.started}, temporary)
        self.written = time.monotonic()

    def _key(self, about: object) -> str:
        """Hash of the model, its weights and schedule, the recipe, and `about`: 64 hex digits."""
        place = (distributed.rank(), distributed.world_size())
        words = (str(self.pipeline), sorted(self.recipe.words.items()), self.recipe.float64, place, about)
        digest = hashlib.sha256(repr(words).encode())
        t = torch.linspace(0.01, 1, 100, dtype=torch.float64)
        digest.update(self.pipeline.denoiser.schedule.log_snr(t).detach().cpu().numpy().tobytes())
        for value in self.pipeline.state_dict().values():
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
