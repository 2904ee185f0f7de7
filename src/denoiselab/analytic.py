r"""Exact denoisers, to test schedules, spacings, samplers and guidance without a trained network.

They return $E[x_0|x_t]$ and $E[\epsilon|x_t]$, with $x_t = \alpha x_0 + \sigma\epsilon$, for Gaussian mixtures and sets
of points.

A mixture has $x_0 \sim \sum_k w_k N(\mu_k, \Sigma_k)$ with $\Sigma_k = Q_k\,\mathrm{diag}(\lambda_k)\,Q_k^T$. In the
coordinates $z_k = Q_k^T (x_t - \alpha\mu_k)$, of variance $v_k = \alpha^2\lambda_k + \sigma^2$, its dimensions are
independent,

$$E[x_0|x_t, k] = \mu_k + Q_k (\alpha\lambda_k/v_k)\,z_k, \qquad E[\epsilon|x_t, k] = Q_k (\sigma/v_k)\,z_k,$$

and the components have the weights $\mathrm{softmax}_k(\log w_k + \log p_t(x_t|k))$, $p_t(x_t|k) = N(z_k; 0, v_k)$. The
points of a set have the weights $\mathrm{softmax}_i(-|x_t - \alpha x_i|^2/(2\sigma^2))$: the optimal denoiser of a
training set. At $\sigma = 0$, x_t does not depend on eps, and $E[\epsilon|x_t] = 0$. A label (cond.label: (B,), -1 for
none) restricts its sample to the components or points of that class.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.conditioning.cond import Cond
from denoiselab.denoiser import Prediction
from denoiselab.errors import ConfigError
from denoiselab.schedules import Schedule, as_time

MOST_VALUES = 4096  # per image, for a covariance: 4096 x 4096 float64 take 128 MiB


class Exact(nn.Module, ABC):
    """A denoiser without parameters, called like a trained one.

    It computes in the wider of x_t's dtype and its own, float64 until it is moved (use .float() on devices without
    float64), and returns x_t's. `classes`: int64, the class of each component or point; None for no classes, in which
    case labels are ignored. Raises ConfigError for the label of an empty class.
    """

    classes: Tensor | None

    def __init__(self, schedule: Schedule, values: Tensor, classes: Tensor | None) -> None:
        super().__init__()
        self.schedule = schedule
        self.register_buffer("classes", None if classes is None else classes.to(values.device, torch.int64))
        self._known = set() if classes is None else set(classes.tolist())

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the data."""

    @abstractmethod
    def posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns (E[x_0|x_t], E[eps|x_t]), each (B, D), for x: (B, D), alpha, sigma: (B, 1), all of one dtype."""

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        label = None if cond is None else cond.label
        self._check(label)
        x0, eps = self.posterior(*self._at(x_t, t), label)
        return Prediction(*(part.to(x_t.dtype).reshape(x_t.shape) for part in (x0, eps)))

    def __call__(self, *args: Any, **kwargs: Any) -> Prediction:
        return super().__call__(*args, **kwargs)

    def _at(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Returns x: (B, ...) as (B, D), with alpha and sigma at its times as (B, 1)."""
        dtype = torch.promote_types(x.dtype, self.dtype)
        alpha, sigma = (part.to(x.device, dtype)[:, None] for part in self.schedule(as_time(t).expand(len(x))))
        return x.to(dtype).reshape(len(x), -1), alpha, sigma

    def _check(self, label: Tensor | None) -> None:
        strange = set() if label is None or self.classes is None else set(label.tolist()) - {-1} - self._known
        if strange:
            raise ConfigError(f"class {min(strange)} has no data to go by; those that have some are {self._listed()}")

    def _listed(self) -> str:
        return ", ".join(map(str, sorted(self._known)))

    def _excluded(self, label: Tensor | None, part: slice = slice(None)) -> Tensor | None:
        """Returns which components or points of `part` each sample excludes: bool (B, K), or None for none."""
        if label is None or self.classes is None:
            return None
        label = label.to(self.classes.device)[:, None]
        return (label >= 0) & (label != self.classes[part])


class Normals(Exact):
    """K weighted Gaussians: w: (K,), mu: (K, D), covariances (K, D, D) or standard deviations (K,).

    D may be 1 where all dimensions are alike. Raises ConfigError for an invalid covariance.
    """

    log_weights: Tensor
    means: Tensor
    spectra: Tensor  # lambda: (K, D)
    bases: Tensor | None  # Q: (K, D, D), None for isotropic ones

    def __init__(
        self,
        schedule: Schedule,
        weights: Tensor,
        means: Tensor,
        stds: Tensor | None,
        covariances: Tensor | None,
        classes: Tensor | None,
    ) -> None:
        super().__init__(schedule, means, classes)
        if (weights < 0).any() or not weights.sum() > 0:
            raise ConfigError(f"weights are at least 0 and not all 0, but these are {weights.tolist()}")
        if covariances is not None:
            spectra, bases = _spectral(covariances)
        elif stds is not None:
            spectra, bases = stds.square()[:, None], None
        else:
            raise ConfigError("a Gaussian needs its covariance or its standard deviation; give one of them")
        self.register_buffer("log_weights", torch.log(weights / weights.sum()))
        self.register_buffer("means", means)
        self.register_buffer("spectra", spectra)
        self.register_buffer("bases", bases)

    @property
    def dtype(self) -> torch.dtype:
        return self.means.dtype

    def coordinates(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (z, v): (B, K, D) and (B, K, D or 1)."""
        z = x[:, None] - alpha[:, None] * self.means.to(x.dtype)
        if self.bases is not None:
            z = torch.einsum("bkd,kde->bke", z, self.bases.to(x.dtype))
        variance = (alpha**2)[:, None] * self.spectra.to(x.dtype) + (sigma**2)[:, None]
        # Only a noiseless point has zero variance; the clamp makes the nearest point win there, without NaN.
        return z, variance.clamp(min=math.sqrt(torch.finfo(x.dtype).tiny))

    def log_joint(self, z: Tensor, variance: Tensor, label: Tensor | None) -> Tensor:
        """Returns log w_k + log p_t(x_t|k): (B, K), -infinity for components outside the sample's class."""
        log_normal = -(z.square() / variance + torch.log(2 * math.pi * variance)).sum(-1) / 2
        joint = self.log_weights.to(z.dtype) + log_normal
        excluded = self._excluded(label)
        return joint if excluded is None else joint.masked_fill(excluded, -math.inf)

    def posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        z, variance = self.coordinates(x, alpha, sigma)
        r = torch.softmax(self.log_joint(z, variance, label), dim=1)
        shrunk = alpha[:, None] * self.spectra.to(x.dtype) / variance * z
        x0 = r @ self.means.to(x.dtype) + self._turned_back(r[..., None] * shrunk)
        return x0, self._turned_back(r[..., None] * (sigma[:, None] / variance * z))

    def _turned_back(self, z: Tensor) -> Tensor:
        """Returns sum_k Q_k z_k: (B, D)."""
        return z.sum(1) if self.bases is None else torch.einsum("bke,kde->bd", z, self.bases.to(z.dtype))

    def log_density(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """Returns log p_t(x) of the noisy data, in nats: (B,); log p_t(x|y) where label: (B,) is not -1."""
        self._check(label)
        coordinates = self.coordinates(*self._at(x, t))
        joint = torch.logsumexp(self.log_joint(*coordinates, label), dim=1)
        excluded = self._excluded(label)
        if excluded is None:
            return joint
        weights = self.log_weights.to(joint.dtype).masked_fill(excluded, -math.inf)
        return joint - torch.logsumexp(weights, dim=1)


def _spectral(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (lambda, Q) of covariances: (K, D, D), with lambda exactly 0 where it is within rounding of 0."""
    spectra, bases = torch.linalg.eigh(covariances)
    rounding = covariances.shape[-1] * torch.finfo(spectra.dtype).eps * spectra.abs().amax(-1, keepdim=True)
    if (spectra < -10 * rounding).any() or not torch.allclose(covariances, covariances.mT, rtol=1e-6):
        raise ConfigError(f"a covariance is symmetric with no negative eigenvalue; one here has {spectra.min():.3g}")
    return torch.where(spectra < rounding, 0.0, spectra), bases


class Gaussian(Normals):
    r"""A Gaussian without classes: N(mean, covariance), covariance (D, D), or N(mean, std^2 I).

    mean: a number or of an event's shape.
    $E[x_0|x_t] = \mathrm{mean} + \alpha C (\alpha^2 C + \sigma^2 I)^{-1} (x_t - \alpha\,\mathrm{mean})$.
    """

    def __init__(
        self, schedule: Schedule, mean: Tensor | float = 0.0, std: float = 1.0, covariance: Tensor | None = None
    ) -> None:
        means = torch.as_tensor(mean, dtype=torch.float64).reshape(1, -1)
        stds = torch.tensor([std], dtype=torch.float64, device=means.device)
        covariances = None if covariance is None else covariance.to(means)[None]
        super().__init__(schedule, torch.ones_like(stds), means, stds, covariances, classes=None)

    def flow(self, x: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
        r"""Moves x from t to s along the probability-flow ODE, exactly: quantiles stay, $z_s = \sqrt{v_s/v_t}\,z_t$."""
        flat, *level_t = self._at(x, t)
        _, *level_s = self._at(x, s)
        z, variance_t = self.coordinates(flat, *level_t)
        _, variance_s = self.coordinates(flat, *level_s)
        moved = self._turned_back(torch.sqrt(variance_s / variance_t) * z)
        return (level_s[0] * self.means.to(flat.dtype) + moved).to(x.dtype).reshape(x.shape)


class Mixture(Normals):
    """A Gaussian mixture: weights (K,), means (K, ...), covariances (K, D, D) or stds (K,), which may be 0.

    classes: (K,). Raises ConfigError unless each class 0 ... C - 1 has a component.
    """

    def __init__(
        self,
        schedule: Schedule,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor | None = None,
        stds: Tensor | None = None,
        classes: Tensor | None = None,
    ) -> None:
        means = means.double()
        stds = None if stds is None else stds.to(means)
        covariances = None if covariances is None else covariances.to(means)
        super().__init__(schedule, weights.to(means), means.flatten(1), stds, covariances, classes)
        self.event = means.shape[1:]
        if self._known != set(range(len(self._known))):
            raise ConfigError(f"each class 0, 1, 2, ... of a mixture has data, but here only {self._listed()}")

    def class_log_prob(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        """Returns log p(y|x_t) for each class y: (B, C), as a perfect classifier of noisy inputs would."""
        if self.classes is None:
            raise ConfigError("a mixture without classes has none to tell apart; give it classes")
        joint = self.log_joint(*self.coordinates(*self._at(x_t, t)), label=None)
        other = torch.arange(len(self._known), device=joint.device)[:, None] != self.classes
        return torch.log_softmax(torch.logsumexp(joint[:, None].masked_fill(other, -math.inf), dim=2), dim=1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws n data points: (n, ...), float64 on the CPU, where `generator` must be."""
        k = torch.multinomial(self.log_weights.cpu().exp(), n, replacement=True, generator=generator)
        means, spectra = self.means.cpu(), self.spectra.cpu()
        z = torch.randn(n, means.shape[1], generator=generator, dtype=means.dtype) * spectra.sqrt()[k]
        if self.bases is not None:
            bases = self.bases.cpu()
            z = torch.stack([bases[i] @ row for i, row in zip(k.tolist(), z, strict=True)])
        return (means[k] + z).reshape(n, *self.event)


class Empirical(Exact):
    """The optimal denoiser of points (N, ...), labels int64 (N,) or None: N distances per sample, `chunk` at a time."""

    points: Tensor

    def __init__(self, schedule: Schedule, points: Tensor, labels: Tensor | None = None, chunk: int = 4096) -> None:
        super().__init__(schedule, points, labels)
        self.chunk = chunk
        self.register_buffer("points", points.flatten(1))

    @property
    def dtype(self) -> torch.dtype:
        return self.points.dtype

    def posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        # With y = x/alpha, the weight of x_i is exp(-p |y - x_i|^2), p = alpha^2/(2 sigma^2): the distances do not
        # depend on the noise level. Where alpha/sigma is lost to rounding, all weights are equal.
        info = torch.finfo(x.dtype)
        seen = alpha > info.eps * sigma
        y = x / torch.where(seen, alpha, 1.0)
        precision = torch.where(seen, alpha / sigma.clamp(min=info.tiny**0.25), 0.0) ** 2 / 2
        precision = precision.clamp(min=info.tiny)  # 0 times an infinite distance would be NaN
        # Softmax by chunks, relative to the least squared distance so far, which has weight 1.
        least = torch.full_like(alpha, info.max)
        total, mean = torch.zeros_like(alpha), torch.zeros_like(x)
        for start in range(0, len(self.points), self.chunk):
            part = slice(start, start + self.chunk)
            points = self.points[part].to(x.dtype)
            # From differences, as |y|^2 - 2 y x_i + |x_i|^2 would cancel at small sigma.
            squares = torch.cdist(y, points, compute_mode="donot_use_mm_for_euclid_dist").square()
            excluded = self._excluded(label, part)
            if excluded is not None:
                squares = squares.masked_fill(excluded, math.inf)
            nearest = torch.minimum(least, squares.amin(1, keepdim=True))
            rescaled = torch.exp(-precision * (least - nearest))
            weights = torch.exp(-precision * (squares - nearest))
            total = rescaled * total + weights.sum(1, keepdim=True)
            mean = rescaled * mean + weights @ points
            least = nearest
        x0 = mean / total
        return x0, torch.where(sigma > 0, (x - alpha * x0) / torch.where(sigma > 0, sigma, 1.0), 0.0)


# Factories for conf/analytic: (schedule, points (N, ...), labels (N,) or None) -> an exact denoiser of such data.


def gaussian(schedule: Schedule, points: Tensor, labels: Tensor | None = None) -> Gaussian:
    """Fits the mean and full covariance of the points. Raises ConfigError for points of too many dimensions."""
    mean, covariance = _moments(points.double())
    return Gaussian(schedule, mean, covariance=covariance)


def mixture(schedule: Schedule, points: Tensor, labels: Tensor | None = None) -> Mixture:
    """Fits a Gaussian to each class, with its share of the points as weight. Raises ConfigError as `gaussian` does."""
    points = points.double()
    labels = torch.zeros(len(points), dtype=torch.int64) if labels is None else labels
    classes, counts = labels.unique(return_counts=True)
    means, covariances = zip(*(_moments(points[labels == c]) for c in classes), strict=True)
    return Mixture(schedule, counts, torch.stack(means), torch.stack(covariances), classes=classes)


def _moments(points: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean and the covariance, divided by N, of points: (N, ...)."""
    flat = points.flatten(1)
    if flat.shape[1] > MOST_VALUES:
        raise ConfigError(
            f"the covariance of {flat.shape[1]} values an image is too large; allowed: up to {MOST_VALUES} of them; "
            "take smaller images (data.size) or analytic=empirical"
        )
    centred = flat - flat.mean(0)
    return points.mean(0), centred.mT @ centred / len(points)
