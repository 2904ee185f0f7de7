r"""Pseudo linear multistep (PNDM, Liu 2022, arXiv:2202.09778): Adams-Bashforth and DDIM's transfer.

In $y = x/\alpha$ and $n = \sigma/\alpha$ the probability-flow ODE is $dy/dn = \hat\epsilon$. A step averages the last
values of $\hat\epsilon$ and takes DDIM's transfer (eq. 9), $y_s = y_t + (n_s - n_t)\,\epsilon$, with the average: exact
where $\epsilon$ is constant over the step.
"""

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched
from denoiselab.schedules import Schedule

# Weights of the last 2, 3, 4 values, newest first: exact for polynomials at evenly spaced times.
ADAMS_BASHFORTH = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}

History = tuple[Tensor, ...]
"""The last eps_hat, newest first, three at most; each (B, ...)."""


class PLMS(Sampler[History]):
    """F-PNDM's linear multistep (algorithm 2, eq. 12), of order 2, for smooth grids such as Karras's.

    Few steps that are even in t blow up from t = 1 on the cosine schedule.

    The average assumes steps of equal size, and the transfer weights it by dn: that alone costs a third-order error a
    step, whatever the order of Adams-Bashforth. The first step is pseudo improved Euler (as in latent diffusion's code;
    the paper's pseudo Runge-Kutta takes 4 evaluations), and the next two take the shorter averages: steps + 1
    evaluations, or `steps` if there is one step or the first is from alpha = 0. The last step, to sigma = 0, is DDIM's.

    An error in the average is amplified by n_t/n_s. Where alpha falls to almost 0 (sqrt_linear without log_snr_min),
    DPM-Solver++ and UniPC are accurate and this sampler is not.
    """

    def step(
        self,
        denoise: DenoiseFn,
        schedule: Schedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: History | None,
        noise: NoiseFn,
    ) -> tuple[Tensor, History | None]:
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
            weighted = (weight * past for weight, past in zip(ADAMS_BASHFORTH[len(history)], history, strict=True))
            eps = sum(weighted, torch.zeros(()))
        # The transfer of x with eps is the one with eps_hat plus what their difference contributes.
        dn = sigma_s / alpha_s - sigma_t / alpha_t
        return ddim + alpha_s * dn * (eps - now.eps), history[:3]
