"""Pseudo linear multistep (PNDM, Liu 2022): Adams-Bashforth's average of the last eps_hat, then DDIM's transfer.

In y = x/alpha and n = sigma/alpha the probability-flow ODE is dy/dn = eps_hat, and DDIM's transfer (eq. 9) with any
eps is y_s = y_t + (n_s - n_t) eps: exact where eps does not change along the way.
"""

from typing import Any

from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched
from denoiselab.schedules import Schedule

# What Adams and Bashforth give the last 2, 3, 4 values, newest first: exact for polynomials in evenly spaced times.
ADAMS_BASHFORTH = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


class PLMS(Sampler):
    """F-PNDM's linear multistep (algorithm 2, eq. 12), for smooth grids such as Karras's. Its order is 2.

    On the cosine schedule few steps that are even in t, from t = 1 on, blow up.

    The average is for steps of one size, and the transfer weights it by dn: that alone costs a third-order error a
    step, whatever the order of Adams and Bashforth. The first step is pseudo improved Euler (latent diffusion's code;
    the paper's pseudo Runge-Kutta takes 4 evaluations), the next two take the shorter averages: steps + 1 evaluations,
    or `steps` where there is one step or the first is from alpha = 0. The last step, to sigma = 0, is DDIM's.

    An error of the average counts n_t/n_s fold: where alpha falls to next to nothing (sqrt_linear, without log_snr_min)
    DPM-Solver++ and UniPC are right, and this is not. The state is the last eps_hat, newest first, three at most.
    """

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s = schedule(t), schedule(s)
        if at_t == at_s:
            return x, state
        now = denoise(x, batched(t, x))
        history = (now.eps, *(state or ()))
        ddim = alpha_s * now.x0 + sigma_s * now.eps
        if sigma_s == 0 or alpha_t == 0:
            return ddim, history[:3]
        if state is None:
            eps = (now.eps + denoise(ddim, batched(s, x)).eps) / 2
        else:
            eps = sum(weight * past for weight, past in zip(ADAMS_BASHFORTH[len(history)], history, strict=True))
        # The transfer of x with eps is that with eps_hat and what the two differ by.
        dn = sigma_s / alpha_s - sigma_t / alpha_t
        return ddim + alpha_s * dn * (eps - now.eps), history[:3]
