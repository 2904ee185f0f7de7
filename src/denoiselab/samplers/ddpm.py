r"""Ancestral sampling (DDPM, Ho 2020, arXiv:2006.11239, algorithm 2): $x_s \sim N(\mu, \Sigma)$.

$$\mu = \frac{\alpha_t}{\alpha_s} \frac{\sigma_s^2}{\sigma_t^2}\,x_t + \frac{\alpha_s \beta}{\sigma_t^2}\,\hat x_0,
\qquad \log\Sigma = f \log\beta + (1 - f) \log\tilde\beta$$

$\mu$ is the mean of $q(x_s|x_t, \hat x_0)$, and $f$ interpolates between two variances (iDDPM, Nichol 2021,
arXiv:2102.09672, eq. 15): $\beta$, that of $q(x_t|x_s)$, and $\tilde\beta = \beta\,\sigma_s^2/\sigma_t^2$. $f = 0$ is
exact for data of a single point; $f = 1$ for $N(0, I)$ data on a variance-preserving schedule (DDPM §3.2).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.errors import IncompatibleError
from denoiselab.limits import Count, Share, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched, posterior_variance
from denoiselab.schedules import Level, Schedule
from denoiselab.spacings import Spacing


def _learned(prediction: Prediction, fraction: float) -> Tensor:
    if prediction.variance is None:
        raise IncompatibleError(
            "sampler.variance=learned needs a model trained with loss=hybrid; "
            "use sampler.variance=small or sampler.variance=large with this one"
        )
    return prediction.variance.to(prediction.x0.dtype)


FRACTIONS: dict[str, Callable[[Prediction, float], Tensor | float]] = {
    "small": lambda prediction, fraction: 0.0,
    "large": lambda prediction, fraction: 1.0,
    "interpolated": lambda prediction, fraction: fraction,
    "learned": _learned,
}
"""Each variance as a function that returns f, from the prediction and the option `fraction`."""


class DDPM(Sampler[None]):
    """Ancestral sampling; `variance` selects f: "small" 0, "large" 1, "interpolated" `fraction`, "learned" the model's.

    The last step adds no noise. Raises IncompatibleError while sampling if the variance is "learned" and the model has
    not learned one.
    """

    @checked
    def __init__(
        self,
        steps: Count,
        spacing: Spacing,
        variance: Literal["small", "large", "interpolated", "learned"] = "small",
        fraction: Share = 0.5,
    ) -> None:
        super().__init__(steps, spacing)
        self.variance, self.fraction = variance, fraction

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: None, noise: NoiseFn
    ) -> tuple[Tensor, None]:
        prediction = denoise(x, batched(t, x))
        return self.draw(x, prediction, schedule(t), schedule(s), noise), None

    def draw(self, x: Tensor, prediction: Prediction, at_t: Level, at_s: Level, noise: NoiseFn) -> Tensor:
        """Draws x_s: (B, ...), from x and the prediction at t."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
        beta, beta_tilde = posterior_variance(at_t, at_s)
        mean = (alpha_t / alpha_s) * (sigma_s / sigma_t) ** 2 * x + (alpha_s * beta / sigma_t**2) * prediction.x0
        if sigma_s == 0 or beta == 0:  # the last step, or one past the end of a schedule that was cut short
            return mean
        f = FRACTIONS[self.variance](prediction, self.fraction)
        return mean + torch.sqrt(beta_tilde) * (sigma_t / sigma_s) ** f * noise(x)
