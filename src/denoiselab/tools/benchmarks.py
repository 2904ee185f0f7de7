"""make benchmarks: overhead of the framework, each result a ratio of two interleaved timings in one run.

Training: a step of the default experiment with the whole stack against a bare PyTorch loop (limit 1.10).
Sampling: a sampler step against the network call alone (limit 1.05).
Start: from the command to the end of the first training step, minus the import of Lightning (limit 3 s).
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from denoiselab.assembly.configuration import CONF, composed
from denoiselab.data import ImageDataModule
from denoiselab.data.source import to_float
from denoiselab.training import fit, loggers
from denoiselab.training.callbacks import Finite, Pace, Progress, Stop
from denoiselab.training.parts import parts as parts_of

ROUNDS, WARM, STEPS = 5, 10, 40


class _Stopwatch(pl.Callback):
    """Measure seconds per step, from the end of step WARM to the last step."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == WARM:
            self.start = time.perf_counter()
        elif trainer.global_step == WARM + STEPS:
            self.seconds = (time.perf_counter() - self.start) / STEPS


def stack_seconds(folder: Path) -> float:
    """Seconds per training step of the default experiment in Lightning, with EMA, checks, progress, CSV and W&B."""
    words = [f"trainer.max_steps={WARM + STEPS}", "trainer=cpu", "trainer.val_check_interval=999"]
    cfg = composed("train", words)
    parts, watch = parts_of(cfg), _Stopwatch()
    trainer = fit.make_trainer(cfg, folder, [Finite(), Progress(), Pace(), Stop(), watch])
    trainer.loggers = made = loggers.loggers(cfg, folder, "benchmark", {}, "benchmark")
    data = ImageDataModule(parts.source, cfg.batch_size, cfg.seed)
    trainer.fit(fit.make_system(cfg, parts), datamodule=data)
    loggers.close(made, exit_code=0)
    return watch.seconds


def bare_seconds() -> float:
    """Seconds per step with the same network, batch, loss and optimizer in a plain loop, without EMA and logging."""
    cfg = composed("train", [])
    parts = parts_of(cfg)
    model, images, labels = (
        parts.pipeline,
        parts.source.train.__getitems__(range(1437))["image"],
        parts.source.train.labels,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(WARM + STEPS):
        if step == WARM:
            start = time.perf_counter()
        index = torch.randint(len(images), (cfg.batch_size,))
        x0, t, eps = to_float(images[index]), torch.rand(cfg.batch_size), torch.randn(cfg.batch_size, *images.shape[1:])
        alpha, sigma = (torch.pi / 2 * t).cos()[:, None, None, None], (torch.pi / 2 * t).sin()[:, None, None, None]
        cond = model.conditioner({"label": labels[index]})
        output = model.denoiser.backbone(alpha * x0 + sigma * eps, t, cond)
        loss = (output - alpha * eps + sigma * x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return (time.perf_counter() - start) / STEPS


def sampling_seconds(sampler: str) -> list[tuple[float, float]]:
    """Interleaved seconds (sampling step with clipping and per-sample noise, network call) for 100 images."""
    parts = parts_of(composed("train", [f"sampler={sampler}", "sampler.steps=50", "guidance.scale=1"]))
    model, labels = parts.pipeline.eval(), torch.arange(100) % 10
    x, t = torch.randn(100, *model.latent_shape), torch.rand(100)

    @torch.inference_mode()
    def network() -> None:
        cond = model.conditioner({"label": labels})
        for _ in range(50):
            model.denoiser.backbone(x, t, cond)

    def sample() -> None:
        model.sample(parts.recipe, range(100), labels, 0)

    times = [(timed(sample) / 50, timed(network) / 50) for _ in range(2 * ROUNDS)]
    return times[1:]


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def start_seconds(folder: Path) -> tuple[float, float]:
    """Seconds (from the command to the first training step's checkpoint, for the import of Lightning)."""
    lightning = timed(lambda: _python("-c", "import pytorch_lightning").wait())
    start = time.perf_counter()
    words = ["trainer.max_steps=3", "callbacks.checkpoint.every_n_train_steps=1", f"hydra.run.dir={folder}"]
    process = _python(str(CONF.parent / "train.py"), "metrics=none", *words)
    while not (folder / "checkpoints" / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    process.wait()
    return seconds, lightning


def _python(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    fit.quiet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = [(stack_seconds(folder / str(i)), bare_seconds()) for i in range(ROUNDS)]
        starts = [start_seconds(folder / f"start{i}") for i in range(3)]
    extra = statistics.median(start - lightning for start, lightning in starts)
    print(f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}; medians of rounds taken in turns")
    _say("training step, whole stack", pairs, "bare loop", 1.10)
    for sampler in ("ddim", "ddpm"):
        _say(f"{sampler} step", sampling_seconds(sampler), "network alone", 1.05)
    print(f"start: {extra:.1f} s more than the import of Lightning (limit 3 s; median of {len(starts)})")


def _say(what: str, pairs: list[tuple[float, float]], against: str, limit: float) -> None:
    ours, theirs = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    spread = f"{len(ratios)} rounds from {ratios[0]:.3f} to {ratios[-1]:.3f}"
    ratio = statistics.median(ratios)
    print(f"{what} {ours:.1f} ms, {against} {theirs:.1f} ms: {ratio:.3f} (limit {limit:.2f}; {spread})")


if __name__ == "__main__":
    main()
