"""Explicit randomness: every draw is a function of named keys, never of earlier draws.

A training step's noise depends on (seed, "train", batch), and generated image i on (seed, "sample", i), and on nothing
else. So evaluation never disturbs training, a resumed run draws what the uninterrupted one would have, and an image
does not depend on batch size, device count or order.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def seed_for(*keys: int | str) -> int:
    """Returns a 63-bit seed from integers and strings, the same on every machine, process and Python version."""
    named = tuple(key if isinstance(key, str) else int(key) for key in keys)
    return int.from_bytes(hashlib.blake2b(repr(named).encode(), digest_size=8).digest(), "big") >> 1


def generator(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed_for(*keys))


def reseed(device: torch.device, *keys: int | str) -> None:
    """Seeds the default generators, used by dropout for example, on the CPU and on `device`.

    torch.manual_seed would keep a stack trace of each call for every accelerator not in use.
    """
    seed = seed_for(*keys)
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def uniform(draws: int, purpose: str, indices: Sequence[int]) -> Tensor:
    """Returns (B, draws) in [0, 1), a function of each index and the purpose alone."""
    rows = [torch.rand(draws, generator=generator(purpose, int(i))) for i in indices]
    return torch.stack(rows) if rows else torch.zeros(0, draws)


class SampleNoise:
    """Standard normal noise, a generator per sample, drawn on the CPU for any device; called like torch.randn_like."""

    def __init__(self, seed: int, indices: Sequence[int], purpose: str = "sample") -> None:
        self.generators = [generator(seed, purpose, int(i)) for i in indices]

    def __call__(self, x: Tensor) -> Tensor:
        """Returns noise of the shape (B, ...), dtype and device of `x`; B is the number of indices."""
        noise = torch.empty(x.shape, dtype=x.dtype)
        for row, gen in zip(noise, self.generators, strict=True):
            torch.randn(row.shape, generator=gen, dtype=x.dtype, out=row)
        return noise.to(x.device, non_blocking=True)
