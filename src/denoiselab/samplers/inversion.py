r"""From an image to the noise from which a deterministic sampler makes it (DDIM, arXiv:2010.02502, §4.3 and §5.4).

The sampler's own steps are taken upwards: its formula for $x_s$ from $x_t$ holds for $s > t$ too, with the denoiser
evaluated at the lower end. Both ends of the path are special. At $t = 0$ there is no $\hat\epsilon$, so the first step
uses that of $(\alpha x_0, t)$ at its upper end, with an error of order $n^2$, $n = \sigma/\alpha$ there. Only Euler's
step leads to $\alpha = 0$: $x = \alpha \hat x_0 + \sigma \hat\epsilon$.
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
    """Returns x_T, of the shape and dtype of x_0: (B, ...), from which the sampler makes x_0 again.

    Raises IncompatibleError for a sampler that adds noise or keeps a state between steps.
    """
    check_invertible(sampler, schedule)
    denoise = precise(denoise)
    low, *upwards = _upwards(sampler, schedule)
    scale = start_scale(schedule, upwards[-1])
    if low > 0:
        return _climb(sampler, denoise, schedule, x_0, [low, *upwards]) / scale
    first = upwards[0].clamp(max=sampler.t_min) if isinstance(sampler, ODE) else upwards[0]
    alpha, sigma = schedule(first)
    x = alpha * x_0 + sigma * denoise(alpha * x_0, batched(first, x_0)).eps
    return _climb(sampler, denoise, schedule, x, [first, *(t for t in upwards if t > first)]) / scale


def _upwards(sampler: Sampler, schedule: Schedule) -> Sequence[Tensor]:
    return sampler.spacing(sampler.steps, schedule).cpu().flip(0).unbind()


def _climb(sampler: Sampler, denoise: DenoiseFn, schedule: Schedule, x: Tensor, times: Sequence[Tensor]) -> Tensor:
    """Takes x from the first of the ascending times, which is above 0, to the last."""
    alpha, sigma = schedule(times[-1])  # alpha is 0 at the last time at most, as log-SNR decreases
    for s, t in pairwise(times):
        if t is times[-1] and alpha == 0 and not isinstance(sampler, ODE):
            x = sigma * denoise(x, batched(s, x)).eps
        else:
            x, _ = sampler.step(denoise, schedule, x, s, t, None, torch.randn_like)
    return x


def check_invertible(sampler: Sampler, schedule: Schedule) -> None:
    """Raises IncompatibleError unless the sampler can be inverted, which a trial run finds without the network.

    The trial takes the sampler's steps, down and up, for data of the single point 0. There x_t = sigma eps and eps_hat
    is x_t/sigma, so a one-step method is exact in both directions.
    """
    if isinstance(sampler, ODE):
        return

    def refuse(why: str) -> NoReturn:
        name = type(sampler).__name__
        raise IncompatibleError(
            f"{name} cannot be inverted: it {why}; take sampler=ddim sampler.eta=0, sampler=euler, heun or ode"
        )

    def noise(x: Tensor) -> Tensor:
        refuse("adds noise, so many noises lead to one image")

    def at_zero(x_t: Tensor, t: Tensor) -> Prediction:
        return Prediction(x0=torch.zeros_like(x_t), eps=x_t / like(schedule(t).sigma, x_t))

    times = _upwards(sampler, schedule)
    x = schedule(times[-1]).sigma[None]
    for t, s in pairwise(reversed(times)):
        x, state = sampler.step(at_zero, schedule, x, t, s, None, noise)
        if state is not None:
            refuse("is a multistep method, and its steps depend on the steps before")
    first, *others = (t for t in times if t > 0)
    found = _climb(sampler, at_zero, schedule, schedule(first).sigma[None], [first, *others])
    if not torch.allclose(found, schedule(times[-1]).sigma, rtol=1e-6, atol=0):
        refuse("does not step upwards")
