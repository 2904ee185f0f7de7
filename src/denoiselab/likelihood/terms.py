r"""The terms of the variational bound on $-\log p(x_0)$ (DDPM, arXiv:2006.11239, eq. 5), in nats, elementwise in x_0.

- prior: $KL(q(x_T|x_0)\,\|\,p(x_T))$, $p(x_T) = N(0, \sigma_\mathrm{prior}^2 I)$
- $L_t$: $KL(q(x_s|x_t, x_0)\,\|\,p(x_s|x_t))$ for the steps $s < t$ with $s > 0$
- decoder: $-\log p(x_0|x_1)$, of a Gaussian over the 256 levels of an image, or its density

$p(x_s|x_t)$ has the mean of $q(x_s|x_t, \hat x_0)$ and the log variance $f\log\beta + (1 - f)\log\tilde\beta$, where
$\tilde\beta = \beta\sigma_s^2/\sigma_t^2$ and $\beta = \sigma_t^2 - (\alpha_t\sigma_s/\alpha_s)^2$. With
$r = \log(\beta/\tilde\beta) = \log(\sigma_t^2/\sigma_s^2)$,

$$L_t = \tfrac12 (f r + e^{-f r} - 1) + \tfrac12 e^{-f r} (\mathrm{SNR}_s - \mathrm{SNR}_t) (x_0 - \hat x_0)^2,$$

since $|\mu - \hat\mu|^2/\tilde\beta = (\mathrm{SNR}_s - \mathrm{SNR}_t) (x_0 - \hat x_0)^2$. Scalars are float64.
"""

import math

import torch
from torch import Tensor
from torch.special import log_ndtr

from denoiselab.denoiser import Prediction
from denoiselab.schedules import Schedule, like

HALF_BIN = 1 / 255  # 256 levels in [-1, 1]


def prior_nats(schedule: Schedule, x0: Tensor) -> Tensor:
    """Returns KL(q(x_1|x_0) || N(0, prior_std^2)) of each element of x0: (B, ...)."""
    alpha, sigma = schedule(1.0)
    spread = _excess(-2 * torch.log(sigma / schedule.prior_std)) / 2
    return like(spread, x0) + like((alpha / schedule.prior_std) ** 2 / 2, x0) * x0.square()


def step_nats(
    schedule: Schedule, x0: Tensor, x_t: Tensor, prediction: Prediction, t: Tensor, s: Tensor, fraction: float | Tensor
) -> Tensor:
    """Returns L_t of each element of x0: (B, ...), t, s: (B,), 0 < s < t; fraction: f, a number or of the shape of x0.

    x_t cancels, since both means have the same share of it.
    """
    (_, sigma_t), (_, sigma_s) = schedule(t), schedule(s)
    ratio = 2 * torch.log(sigma_t / sigma_s)
    widening = like(fraction * ratio, x0) if isinstance(fraction, float | int) else fraction * like(ratio, x0)
    # For close times, the difference of log-SNR is more accurate than that of SNR.
    log_snr_s, log_snr_t = schedule.log_snr(s), schedule.log_snr(t)
    difference = -torch.exp(log_snr_s) * torch.expm1(log_snr_t - log_snr_s)
    return _excess(widening) / 2 + torch.exp(-widening) * like(difference / 2, x0) * (x0 - prediction.x0).square()


FRACTIONS = {"small": 0.0, "large": 1.0}
"""f of the fixed reverse variances: log Sigma = f log beta + (1 - f) log beta-tilde (iDDPM, eq. 15)."""


def decoder_log_std(schedule: Schedule, t_1: Tensor, t_2: Tensor, fraction: float | Tensor) -> Tensor:
    """Returns the log scale of the decoder, the last step, from t_1 to 0: the shape of t_1, or of a tensor `fraction`.

    beta_1 = sigma(t_1)^2. As beta-tilde_1 is 0, that of the step from t_2 to t_1 replaces it (iDDPM, §3.1).
    """
    log_beta = 2 * torch.log(schedule(t_1).sigma)
    # beta-tilde_2 = sigma_1^2 (1 - SNR_2/SNR_1)
    log_beta_tilde = log_beta + torch.log(-torch.expm1(schedule.log_snr(t_2) - schedule.log_snr(t_1)))
    if isinstance(fraction, float | int):
        return (fraction * log_beta + (1 - fraction) * log_beta_tilde) / 2
    return (fraction * like(log_beta, fraction) + (1 - fraction) * like(log_beta_tilde, fraction)) / 2


def decoder_nats(x0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Returns -log of the probability of each level of x0: (B, ...), one of 256 in [-1, 1], under N(mean, std^2).

    The bins are x0 +- 1/255, with the first and last open (DDPM, eq. 13). log_std: a scalar, (B,) or (B, ...).
    """
    # Phi(u) - Phi(l) loses digits near 1 and in narrow bins: computed in the lower tail, by logarithms, in float64.
    x = wide(x0)
    error, std = x - mean.to(x), torch.exp(like(log_std, x))
    upper, lower = (HALF_BIN - error.abs()) / std, (-HALF_BIN - error.abs()) / std
    log_upper = log_ndtr(upper)
    inside = log_upper + torch.log(-torch.expm1(log_ndtr(lower) - log_upper))
    first, last = log_ndtr((HALF_BIN + error) / std), log_ndtr((HALF_BIN - error) / std)
    log_p = torch.where(x < HALF_BIN - 1, first, torch.where(x > 1 - HALF_BIN, last, inside))
    return -log_p.to(x0)


def density_nats(x0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Returns -log N(x0; mean, std^2) of each element of x0: (B, ...). log_std: a scalar, (B,) or (B, ...)."""
    log_std = like(log_std, x0)
    return ((x0 - mean) * torch.exp(-log_std)).square() / 2 + log_std + math.log(2 * math.pi) / 2


def _excess(y: Tensor) -> Tensor:
    """Returns y + e^{-y} - 1 >= 0 without cancellation near y = 0."""
    terms = torch.ones_like(y)
    for k in range(12, 2, -1):
        terms = 1 - y / k * terms
    return torch.where(y.abs() < 0.5, y.square() / 2 * terms, y + torch.expm1(-y))


def wide(x: Tensor) -> Tensor:
    """Returns x in float64, on the CPU if its device has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()
