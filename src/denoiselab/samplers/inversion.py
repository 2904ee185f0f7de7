"""From an image to the noise that a deterministic sampler makes it from (DDIM, Song 2020, §4.3 and §5.4).

The sampler's own steps are taken upwards: its formula for x_s from x_t holds for s > t too, with the denoiser asked at
the lower end. Both ends of the way are special. At t = 0 there is no eps_hat, so the first step is taken with that of
(alpha x_0, t) at its upper end: an error of order n^2, n = sigma/alpha there. To alpha = 0 only Euler's step leads,
x = alpha x0_hat + sigma eps_hat.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.errors import IncompatibleError
from denoiselab.samplers.ode import ODE
from denoiselab.samplers.sampler import Sampler, batched, precise, start_scale
from denoiselab.schedules import Schedule, like


def invert(sampler: Sampler, denoise: DenoiseFn, schedule: Schedule, x_0: Tensor) -> Tensor:
    """x_T of the shape and dtype of x_0: (B, ...), from which the sampler makes x_0 again.

    Raises IncompatibleError for a sampler that adds noise or remembers its last steps.
    """
    check_invertible(sampler, schedule)
    denoise = precise(denoise)
    low, *upwards = _upwards(sampler, schedule)
    scale = start_scale(schedule, upwards[-1])
    if low > 0:
        return _walk(sampler, denoise, schedule, x_0, [low, *upwards]) / scale
    first = upwards[0].clamp(max=sampler.t_min) if isinstance(sampler, ODE) else upwards[0]
    alpha, sigma = schedule(first)
    x = alpha * x_0 + sigma * denoise(alpha * x_0, batched(first, x_0)).eps
    return _walk(sampler, denoise, schedule, x, [first, *(t for t in upwards if t > first)]) / scale


def _upwards(sampler: Sampler, schedule: Schedule) -> Sequence[Tensor]:
    return sampler.spacing(sampler.steps, schedule).cpu().flip(0).unbind()


def _walk(sampler: Sampler, denoise: DenoiseFn, schedule: Schedule, x: Tensor, times: Sequence[Tensor]) -> Tensor:
    """x at the first of the ascending times, which is above 0 -> x at the last."""
    for s, t in pairwise(times):
        if schedule(t).alpha == 0 and not isinstance(sampler, ODE):
            x = schedule(t).sigma * denoise(x, batched(s, x)).eps
        else:
            x, _ = sampler.step(denoise, schedule, x, s, t, None, torch.randn_like)
    return x


def check_invertible(sampler: Sampler, schedule: Schedule) -> None:
    """Raises IncompatibleError: seen by taking the sampler's steps for data of one point, 0, with no network.

    There x_t = sigma eps, and eps_hat is x_t/sigma: a one-step method is exact, downwards and upwards.
    """
    if isinstance(sampler, ODE):
        return

    def refuse(what: str) -> NoReturn:
        name = type(sampler).__name__
        raise IncompatibleError(f"{name} {what}; take sampler=ddim sampler.eta=0, euler, heun or ode")

    def noise(x: Tensor) -> Tensor:
        refuse("adds noise, so that no noise is the image's own")

    def at_zero(x_t: Tensor, t: Tensor) -> Prediction:
        return Prediction(x0=torch.zeros_like(x_t), eps=x_t / like(schedule(t).sigma, x_t))

    times = _upwards(sampler, schedule)
    x = schedule(times[-1]).sigma[None]
    for t, s in pairwise(reversed(times)):
        x, state = sampler.step(at_zero, schedule, x, t, s, None, noise)
        if state is not None:
            refuse("goes on from its last steps, so has no inverse")
    first, *others = (t for t in times if t > 0)
    found = _walk(sampler, at_zero, schedule, schedule(first).sigma[None], [first, *others])
    if not torch.allclose(found, schedule(times[-1]).sigma, rtol=1e-6, atol=0):
        refuse("takes no steps upwards")
