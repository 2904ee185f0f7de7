import math

import pytest
import torch

from cases import SAMPLERS, SCHEDULES, grid, over
from denoiselab.analytic import Empirical, Gaussian, Mixture, gaussian, mixture
from denoiselab.conditioning import Cond
from denoiselab.errors import ConfigError
from denoiselab.randomness import SampleNoise
from denoiselab.schedules import Flow, Level, like
from denoiselab.spacings import Trailing

TIMES = [0.05, 0.3, 0.6, 0.9]


def normal(x, mean, std):
    return torch.exp(-((x - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("t", TIMES)
def test_the_gaussian_denoiser_is_the_posterior_mean_by_quadrature(schedule, t):
    schedule, mean, std = SCHEDULES[schedule], 0.3, 0.5
    alpha, sigma = schedule(t)
    x_t = torch.tensor([-1.0, 0.0, 0.4, 2.0], dtype=torch.float64)
    # The trapezium rule on an analytic integrand that vanishes at the ends converges geometrically.
    x0 = torch.linspace(mean - 10 * std, mean + 10 * std, 8001, dtype=torch.float64)
    joint = normal(x0, mean, std) * normal(x_t[:, None], alpha * x0, sigma)
    expected = (joint * x0).sum(1) / joint.sum(1)
    time = torch.full((4,), t, dtype=torch.float64)
    found = Gaussian(schedule, mean, std)(x_t, time)
    torch.testing.assert_close(found.x0, expected, rtol=1e-11, atol=1e-12)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("t", TIMES)
def test_eps_is_minus_sigma_times_the_score(schedule, t):
    schedule, mean, std = SCHEDULES[schedule], 0.3, 0.5
    alpha, sigma = schedule(t)
    x_t = torch.randn(7, dtype=torch.float64, requires_grad=True)
    log_density = torch.log(normal(x_t, alpha * mean, torch.sqrt(alpha**2 * std**2 + sigma**2)))
    (score,) = torch.autograd.grad(log_density.sum(), x_t)
    found = Gaussian(schedule, mean, std)(x_t.detach(), torch.full((7,), t, dtype=torch.float64)).eps
    torch.testing.assert_close(found, -sigma * score, rtol=1e-12, atol=1e-14)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("std", [0.0, 0.5, 2.0])
def test_x0_and_eps_make_up_x_t(schedule, std):
    schedule, t, x_t = SCHEDULES[schedule], grid(100), torch.randn(100, 2, 3, dtype=torch.float64)
    x0, eps = Gaussian(schedule, 0.3, std)(x_t, t)[:2]
    alpha, sigma = (like(part, x_t) for part in schedule(t))
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_t, rtol=0, atol=2e-15)  # a few roundings of numbers near 1


@over("schedule", SCHEDULES)
def test_data_of_one_point_are_always_that_point(schedule):
    x0 = Gaussian(SCHEDULES[schedule], mean=0.3, std=0.0)(torch.randn(100, dtype=torch.float64), grid(100)).x0
    assert (x0 == 0.3).all()


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("std", [0.0, 0.5, 1.0])
def test_the_flow_carries_the_marginal_at_t_to_the_marginal_at_s(schedule, std):
    schedule, mean = SCHEDULES[schedule], 0.3
    t, s = 0.8, 0.25
    gaussian = Gaussian(schedule, mean, std)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    quantiles = torch.linspace(-3, 3, 7, dtype=torch.float64)  # a monotone map keeps them
    x_t = alpha_t * mean + torch.sqrt(alpha_t**2 * std**2 + sigma_t**2) * quantiles
    x_s = alpha_s * mean + torch.sqrt(alpha_s**2 * std**2 + sigma_s**2) * quantiles
    torch.testing.assert_close(gaussian.flow(x_t, t, s), x_s, rtol=1e-14, atol=1e-15)


@over("schedule", SCHEDULES)
def test_the_flow_solves_the_probability_flow_ode(schedule):
    # In y = x/alpha and n = sigma/alpha it is dy/dn = eps_hat: central differences along the exact solution.
    schedule, t = SCHEDULES[schedule], torch.tensor(0.5)
    gaussian, x = Gaussian(schedule, 0.3, 0.5), torch.randn(5, dtype=torch.float64)

    def scaled(at):
        alpha, sigma = schedule(at)
        return gaussian.flow(x, t, at) / alpha, sigma / alpha

    (y1, n1), (y2, n2) = scaled(0.5 - 1e-5), scaled(0.5 + 1e-5)
    eps = gaussian(x, torch.full((5,), 0.5, dtype=torch.float64)).eps
    torch.testing.assert_close((y2 - y1) / (n2 - n1), eps, rtol=1e-8, atol=1e-8)


@over("schedule", SCHEDULES)
def test_flows_compose(schedule):
    gaussian, x = Gaussian(SCHEDULES[schedule], 0.3, 0.5), torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(
        gaussian.flow(gaussian.flow(x, 0.9, 0.4), 0.4, 0.0), gaussian.flow(x, 0.9, 0.0), rtol=1e-14, atol=1e-15
    )
    torch.testing.assert_close(gaussian.flow(x, 0.9, 0.9), x, rtol=1e-15, atol=1e-15)


def test_each_sample_has_its_own_time():
    gaussian, x, t = Gaussian(SCHEDULES["cosine"], 0.3, 0.5), torch.randn(4, 2, 3), grid(4)
    alone = [gaussian(x[i : i + 1], t[i : i + 1]).x0 for i in range(4)]
    assert torch.equal(gaussian(x, t).x0, torch.cat(alone))
    flows = [gaussian.flow(x[i : i + 1], t[i : i + 1], 0.0) for i in range(4)]
    assert torch.equal(gaussian.flow(x, t, torch.zeros(4)), torch.cat(flows))


def spread(*shape, rank=None):
    """A random covariance (..., D, D), of that rank."""
    D = shape[-1]
    root = torch.randn(*shape, rank or D, dtype=torch.float64)
    return root @ root.mT / D


def a_mixture(schedule, D=3):
    """Three Gaussians of two classes."""
    means = 2 * torch.randn(3, D, dtype=torch.float64)
    weights, classes = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), torch.tensor([0, 1, 1])
    return Mixture(schedule, weights, means, spread(3, D), classes=classes)


def some_points(schedule, **changes):
    """Ten images of 1 x 2 x 3 in three classes."""
    points = torch.randn(10, 1, 2, 3, dtype=torch.float64)
    return Empirical(schedule, points, torch.arange(10) % 3, **changes)


def at(t, x):
    return torch.full((len(x),), t, dtype=torch.float64)


def noisy(denoiser, n, t):
    """x_t of the denoiser's own data."""
    alpha, sigma = denoiser.schedule(t)
    x0 = denoiser.sample(n, torch.Generator().manual_seed(1))
    return alpha * x0 + sigma * torch.randn_like(x0)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("rank", [2, 6])
def test_the_gaussian_with_a_full_covariance_is_the_direct_solution(schedule, t, rank):
    schedule, C, m = SCHEDULES[schedule], spread(6, rank=rank), torch.randn(1, 2, 3, dtype=torch.float64)
    alpha, sigma = schedule(t)
    x = alpha * m + torch.randn(5, 1, 2, 3, dtype=torch.float64)
    solved = torch.linalg.solve(alpha**2 * C + sigma**2 * torch.eye(6).double(), (x - alpha * m).flatten(1).mT).mT
    found = Gaussian(schedule, m, covariance=C)(x, at(t, x))
    # Both are as exact as the matrix's condition, up to 10 alpha^2/sigma^2, allows.
    tolerance = {"rtol": 0, "atol": float(1e-14 * (1 + 10 * alpha**2 / sigma**2) * (1 + solved.abs().max()))}
    torch.testing.assert_close(found.x0, m + (alpha * solved @ C).reshape(x.shape), **tolerance)
    torch.testing.assert_close(found.eps, (sigma * solved).reshape(x.shape), **tolerance)


@pytest.mark.parametrize("t", [1e-12, 1e-9, 1e-6, 0.5])
def test_x0_stays_where_the_data_are_however_little_noise_there_is(t):
    # Rounding makes an eigenvalue of 0 one of +-1e-17, which is as large as the variance of noise of 3e-9.
    C, x = spread(6, rank=2), torch.randn(20, 6, dtype=torch.float64)
    x0 = Gaussian(SCHEDULES["flow"], covariance=C)(x, at(t, x)).x0
    inside = C @ torch.linalg.pinv(C, rtol=1e-10)
    torch.testing.assert_close(x0 @ inside, x0, rtol=0, atol=1e-12)


@over("schedule", SCHEDULES)
def test_the_flow_of_a_full_covariance_solves_the_probability_flow_ode_and_composes(schedule):
    schedule, m = SCHEDULES[schedule], torch.randn(3, dtype=torch.float64)
    gaussian, x = Gaussian(schedule, m, covariance=spread(3)), torch.randn(5, 3, dtype=torch.float64)

    def scaled(s):
        alpha, sigma = schedule(s)
        return gaussian.flow(x, 0.5, s) / alpha, sigma / alpha

    (y1, n1), (y2, n2) = scaled(0.5 - 1e-5), scaled(0.5 + 1e-5)
    torch.testing.assert_close((y2 - y1) / (n2 - n1), gaussian(x, at(0.5, x)).eps, rtol=1e-7, atol=1e-7)
    twice = gaussian.flow(gaussian.flow(x, 0.9, 0.4), 0.4, 0.0)
    torch.testing.assert_close(twice, gaussian.flow(x, 0.9, 0.0), rtol=1e-12, atol=1e-12)


def test_the_flow_carries_a_full_covariance_to_the_noisy_covariance():
    # The map is affine in x: its matrix A has A (alpha_t^2 C + sigma_t^2 I) A^T = alpha_s^2 C + sigma_s^2 I.
    schedule, C, m = SCHEDULES["cosine"], spread(3), torch.randn(3, dtype=torch.float64)
    gaussian, eye = Gaussian(schedule, m, covariance=C), torch.eye(3, dtype=torch.float64)
    offset = gaussian.flow(torch.zeros(1, 3, dtype=torch.float64), 0.8, 0.2)
    A = (gaussian.flow(eye, 0.8, 0.2) - offset).mT
    before, after = (level.alpha**2 * C + level.sigma**2 * eye for level in (schedule(0.8), schedule(0.2)))
    torch.testing.assert_close(A @ before @ A.mT, after, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(offset[0] + A @ (schedule(0.8).alpha * m), schedule(0.2).alpha * m)


@over("schedule", SCHEDULES)
def test_a_mixture_of_one_is_the_gaussian(schedule):
    schedule, C, m = SCHEDULES[schedule], spread(3, rank=2), torch.randn(3, dtype=torch.float64)
    x, t = torch.randn(20, 3, dtype=torch.float64), grid(20)
    full = Mixture(schedule, torch.ones(1), m[None], C[None]), Gaussian(schedule, m, covariance=C)
    round_ = Mixture(schedule, torch.ones(1), m[None], stds=torch.tensor([0.5])), Gaussian(schedule, m, 0.5)
    for one, other in (full, round_):
        assert all(map(torch.equal, one(x, t)[:2], other(x, t)[:2]))


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("t", TIMES)
def test_the_mixture_denoiser_is_the_posterior_mean_by_quadrature(schedule, t):
    schedule, weights = SCHEDULES[schedule], torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    means, stds = torch.tensor([-1.0, 0.2, 2.0]).double(), torch.tensor([0.3, 0.1, 0.5]).double()
    mixture = Mixture(schedule, weights, means[:, None], stds=stds)
    alpha, sigma = schedule(t)
    x_t = torch.tensor([-1.5, -0.3, 0.2, 1.0, 3.0], dtype=torch.float64)
    x0 = torch.linspace(-6, 8, 56_001, dtype=torch.float64)
    density = (weights * normal(x0[:, None], means, stds)).sum(1)
    joint = density * normal(x_t[:, None], alpha * x0, sigma)
    expected = (joint * x0).sum(1) / joint.sum(1)
    eps = (joint * (x_t[:, None] - alpha * x0)).sum(1) / joint.sum(1) / sigma
    found = mixture(x_t[:, None], at(t, x_t))
    torch.testing.assert_close(found.x0[:, 0], expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.eps[:, 0], eps, rtol=1e-10, atol=1e-10)
    evidence = torch.log(joint.sum(1) * (x0[1] - x0[0]))
    torch.testing.assert_close(mixture.log_density(x_t[:, None], t), evidence, rtol=1e-11, atol=1e-11)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("label", [-1, 0, 1])
def test_log_density_is_that_of_torchs_own_normals(schedule, label):
    schedule = SCHEDULES[schedule]
    mixture, (alpha, sigma) = a_mixture(schedule), schedule(0.4)
    x = noisy(mixture, 7, 0.4)
    C = mixture.bases @ torch.diag_embed(mixture.spectra) @ mixture.bases.mT
    noisy_C = alpha**2 * C + sigma**2 * torch.eye(3).double()
    each = torch.distributions.MultivariateNormal(alpha * mixture.means, noisy_C).log_prob(x[:, None])
    kept = torch.tensor([True] * 3) if label < 0 else mixture.classes == label
    weights = mixture.log_weights.exp() * kept
    expected = torch.log((weights / weights.sum() * each.exp()).sum(1))
    found = mixture.log_density(x, at(0.4, x), torch.full((7,), label))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("label", [-1, 0, 1])
def test_eps_is_minus_sigma_times_the_score_of_the_mixture_and_x0_is_tweedies(schedule, t, label):
    mixture = a_mixture(SCHEDULES[schedule])
    x, labels = noisy(mixture, 7, t).requires_grad_(), torch.full((7,), label)
    (score,) = torch.autograd.grad(mixture.log_density(x, t, labels).sum(), x)
    found = mixture(x.detach(), at(t, x), Cond(label=labels))
    alpha, sigma = mixture.schedule(t)
    # A few roundings of sums of the size of the largest score.
    size = float(sigma * score.abs().max())
    torch.testing.assert_close(found.eps, -sigma * score, rtol=1e-11, atol=1e-12 * size)
    torch.testing.assert_close(found.x0, (x.detach() + sigma**2 * score) / alpha, rtol=1e-10, atol=1e-11)


@over("schedule", SCHEDULES)
def test_a_mixtures_classifier_obeys_bayes_and_turns_the_answer_for_all_into_that_for_a_class(schedule):
    mixture, t = a_mixture(SCHEDULES[schedule]), 0.4
    x = noisy(mixture, 9, t).requires_grad_()
    log_prob = mixture.class_log_prob(x, t)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(9, dtype=torch.float64), rtol=1e-13, atol=0)
    sigma = mixture.schedule(t).sigma
    for y, prior in ((0, 0.5), (1, 0.5)):
        labels = torch.full((9,), y)
        bayes = mixture.log_density(x, t, labels) + math.log(prior) - mixture.log_density(x, t)
        torch.testing.assert_close(log_prob[:, y], bayes, rtol=1e-9, atol=1e-12)
        (slope,) = torch.autograd.grad(log_prob[:, y].sum(), x, retain_graph=True)
        of_all, of_class = (mixture(x.detach(), at(t, x), Cond(label=part)).eps for part in (None, labels))
        torch.testing.assert_close(of_class, of_all - sigma * slope, rtol=1e-9, atol=1e-10)


@over("schedule", SCHEDULES)
def test_components_without_width_are_points(schedule):
    schedule, (points, labels) = SCHEDULES[schedule], (torch.randn(10, 3).double(), torch.arange(10) % 3)
    mixture = Mixture(schedule, torch.ones(10), points, stds=torch.zeros(10), classes=labels)
    narrow = Mixture(schedule, torch.ones(10), points, stds=torch.full((10,), 1e-9), classes=labels)
    empirical = Empirical(schedule, points, labels)
    x, t, cond = torch.randn(30, 3, dtype=torch.float64), grid(30, low=0.02), Cond(label=torch.arange(30) % 4 - 1)
    for one, tolerance in ((mixture, 1e-10), (narrow, 1e-7)):  # responsibilities of |x|^2/sigma^2, up to 10^5
        found, expected = one(x, t, cond), empirical(x, t, cond)
        torch.testing.assert_close(found.x0, expected.x0, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found.eps, expected.eps, rtol=10 * tolerance, atol=10 * tolerance)


def brute(schedule, points, x, t):
    """The empirical denoiser as it is written in books."""
    alpha, sigma = (like(part, x) for part in schedule(t))
    squares = (x[:, None] - alpha[:, None] * points).square().flatten(2).sum(2)
    weights = torch.softmax(-squares / (2 * sigma.flatten(1) ** 2), 1)
    x0 = torch.einsum("bn,n...->b...", weights, points)
    return x0, (x - alpha * x0) / sigma


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("chunk", [1, 3, 10, 4096])
def test_the_empirical_denoiser_is_brute_force_for_any_size_of_chunk(schedule, chunk):
    empirical = some_points(SCHEDULES[schedule], chunk=chunk)
    points = empirical.points.reshape(10, 1, 2, 3)
    t = grid(40, low=0.02)
    alpha, sigma = (like(part, points) for part in empirical.schedule(t))
    x = alpha * points.repeat(4, 1, 1, 1) + sigma * torch.randn(40, 1, 2, 3, dtype=torch.float64)
    (x0, eps), found = brute(empirical.schedule, points, x, t), empirical(x, t)
    torch.testing.assert_close(found.x0, x0, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.eps, eps, rtol=1e-10, atol=1e-11)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("chunk", [4, 4096])
def test_a_class_alone_is_the_denoiser_of_that_class_alone(schedule, chunk):
    whole = some_points(SCHEDULES[schedule], chunk=chunk)
    x, t, label = torch.randn(40, 1, 2, 3, dtype=torch.float64), grid(40), torch.arange(40) % 4 - 1
    found = whole(x, t, Cond(label=label))
    for y in range(-1, 3):
        points = whole.points if y < 0 else whole.points[whole.classes == y]
        expected = Empirical(whole.schedule, points)(x[label == y], t[label == y])
        for one, other in zip(found[:2], expected[:2], strict=True):
            torch.testing.assert_close(one[label == y], other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("t", [0.2, 0.5])
def test_how_x0_changes_with_x_is_the_posteriors_covariance(t):
    # dE[x_0|x_t]/dx_t = alpha/sigma^2 Cov[x_0|x_t]: what a divergence is made of.
    schedule, points = SCHEDULES["cosine"], torch.randn(10, 3, dtype=torch.float64)
    (alpha, sigma), x = schedule(t), torch.randn(1, 3, dtype=torch.float64)
    weights = torch.softmax(-(x - alpha * points).square().sum(1) / (2 * sigma**2), 0)
    centred = points - weights @ points
    expected = alpha / sigma**2 * (weights * centred.mT) @ centred
    sharp = Mixture(schedule, torch.ones(10), points, stds=torch.zeros(10))
    for exact in (Empirical(schedule, points, chunk=4), sharp):
        slope = torch.autograd.functional.jacobian(lambda y, exact=exact: exact(y, at(t, y)).x0, x)[0, :, 0]
        torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-10)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("t", TIMES)
def test_no_linear_denoiser_has_a_smaller_eps_loss_than_the_exact_one(schedule, t):
    # The best linear one is that of a Gaussian of the same mean and variance s^2, whatever the data; its loss is
    # alpha^2 s^2/V. Quadrature over eps for each of four points: no chance in it.
    schedule, points = SCHEDULES[schedule], torch.tensor([-1.0, -0.5, 0.6, 2.0], dtype=torch.float64)[:, None]
    alpha, sigma = schedule(t)
    eps = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    x, weight = (alpha * points + sigma * eps).reshape(-1, 1), normal(eps, 0.0, 1.0).repeat(4) / 4 * 0.005

    def loss(denoiser):
        return float((weight * (denoiser(x, at(t, x)).eps[:, 0] - eps.repeat(4)) ** 2).sum())

    s = float(points.std(correction=0))
    linear, floor = loss(Gaussian(schedule, float(points.mean()), s)), loss(Empirical(schedule, points))
    assert linear == pytest.approx(float((alpha * s) ** 2 / ((alpha * s) ** 2 + sigma**2)), rel=1e-10)
    assert floor < linear
    for mean, std in ((0.0, s), (0.3, 1.1 * s), (float(points.mean()), 0.9 * s)):
        assert loss(Gaussian(schedule, mean, std)) > linear


@over("sampler", SAMPLERS)
def test_every_sampler_ends_at_training_points(sampler):
    schedule = SCHEDULES["cosine"]
    points = 0.5 * torch.eye(3, dtype=torch.float64)
    noise = SampleNoise(0, range(12))
    x_T = schedule.prior_std * noise(torch.empty(12, 3, dtype=torch.float64))

    def distance(steps):
        x = SAMPLERS[sampler](steps, Trailing())(Empirical(schedule, points), schedule, x_T, noise)
        return torch.cdist(x, points).amin(1).max()

    assert distance(3) > 1e-3
    assert distance(60) < 1e-9


EXACT = {
    "gaussian": lambda schedule: Gaussian(schedule, torch.randn(1, 2, 3), covariance=spread(6)),
    "mixture": lambda schedule: a_mixture(schedule, D=6),
    "empirical": some_points,
}


@over("exact", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_is_answered_alone_as_in_its_batch(exact, dtype):
    exact = EXACT[exact](SCHEDULES["flow"])
    shape = (6,) if isinstance(exact, Mixture) else (1, 2, 3)
    x, t, label = torch.randn(8, *shape, dtype=dtype), grid(8), torch.arange(8) % 3 - 1
    whole = exact(x, t, Cond(label=label))
    assert whole.x0.dtype == whole.eps.dtype == dtype
    assert whole.x0.shape == whole.eps.shape == x.shape
    double = exact(x.double(), t, Cond(label=label))
    assert torch.equal(whole.x0, double.x0.to(dtype))
    assert torch.equal(whole.eps, double.eps.to(dtype))
    for i in range(8):
        alone = exact(x[i : i + 1], t[i : i + 1], Cond(label=label[i : i + 1]))
        # Products of other sizes add up in another order.
        torch.testing.assert_close(alone.x0[0], whole.x0[i], rtol=10 * torch.finfo(dtype).eps, atol=1e-13)
        torch.testing.assert_close(alone.eps[0], whole.eps[i], rtol=10 * torch.finfo(dtype).eps, atol=1e-13)


@over("exact", EXACT)
def test_pure_noise_says_nothing_of_x0(exact):
    exact = EXACT[exact](SCHEDULES["flow"])
    shape = (6,) if isinstance(exact, Mixture) else (1, 2, 3)
    x = torch.randn(4, *shape, dtype=torch.float64)
    label = torch.tensor([-1, -1, 0, 1])
    found = exact(x, at(1.0, x), Cond(label=label))
    torch.testing.assert_close(found.eps, x, rtol=0, atol=1e-14)  # turned by Q and back
    means, weights = (exact.points, torch.ones(10)) if isinstance(exact, Empirical) else (exact.means, None)
    weights = exact.log_weights.exp() if weights is None else weights
    for i, y in enumerate(label.tolist()):
        kept = weights.double() * (1.0 if y < 0 or exact.classes is None else exact.classes == y)
        torch.testing.assert_close(found.x0[i].flatten(), kept @ means / kept.sum(), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [0.0, 1e-300, 1e-30, 1e-6])
def test_without_noise_x0_is_the_nearest_point(dtype, t):
    schedule = SCHEDULES["flow"]
    points = torch.randn(10, 3, dtype=dtype)
    x = points.repeat(2, 1) + 0.1 * torch.randn(20, 3, dtype=dtype)
    nearest = torch.cdist(x, points).argmin(1)
    sharp = Mixture(schedule, torch.ones(10), points, stds=torch.zeros(10)).to(dtype)
    for exact in (Empirical(schedule, points), Empirical(schedule, points, chunk=3), sharp):
        found = exact(x, at(t, x))
        assert torch.equal(found.x0, points[nearest])
        if t == 0:  # nothing is known of eps there
            assert (found.eps == 0).all()
        if t == 1e-6:  # within the rounding of x and alpha x0, against a sigma of 1e-6
            torch.testing.assert_close(found.eps, (x - (1 - t) * found.x0) / t, rtol=1e-5, atol=1.0)
    middle = Empirical(schedule, torch.tensor([[-1.0], [1.0], [9.0]], dtype=dtype))
    assert middle(torch.zeros(1, 1, dtype=dtype), torch.tensor([t])).x0 == 0  # both are the nearest


@pytest.mark.parametrize("t", [1e-8, 1e-5, 1e-2])
def test_eps_keeps_its_digits_at_little_noise(t):
    # (x_t - alpha x0)/sigma would keep 16 - 8 of them.
    schedule, variances = SCHEDULES["flow"], torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    x, ones = torch.randn(5, 3, dtype=torch.float64), torch.ones(1)
    expected = t * x / ((1 - t) ** 2 * variances + t**2)
    zero, C = torch.zeros(3, dtype=torch.float64), torch.diag(variances)
    for exact in (Gaussian(schedule, zero, covariance=C), Mixture(schedule, ones, zero[None], C[None])):
        torch.testing.assert_close(exact(x, at(t, x)).eps, expected, rtol=1e-14, atol=0)
    data = Gaussian(schedule, zero, covariance=C)(x, at(0.0, x))
    torch.testing.assert_close(data.x0, x, rtol=1e-15, atol=1e-15)
    assert (data.eps == 0).all()


@pytest.mark.parametrize("t", [1e-3, 0.1, 0.5, 0.999, 1.0])
def test_in_float32_distances_keep_their_digits(t):
    # Points of length 80 that differ by 0.008: |y|^2 - 2 y x_i + |x_i|^2 would be wrong by 1e-3/sigma^2.
    schedule = SCHEDULES["flow"]
    points = 10 + 1e-3 * torch.randn(20, 64, dtype=torch.float32)
    alpha, sigma = (part.float() for part in schedule(t))
    x = alpha * points + sigma * torch.randn_like(points)
    single, double = Empirical(schedule, points), Empirical(schedule, points.double())
    found, expected = single(x, at(t, x)), double(x.double(), at(t, x))
    # x/alpha is rounded to 1e-6, and weights thereby by 1e-6/sigma of the 1e-3 between points.
    torch.testing.assert_close(found.x0.double(), expected.x0, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.eps.double(), expected.eps, rtol=1e-5, atol=float(1e-5 / sigma))
    assert single.float()(x.double(), at(t, x)).x0.dtype == torch.float64


def test_a_schedule_that_fades_to_almost_nothing_is_no_trap():
    # alpha = 1e-24, whose x/alpha overflows when it is squared in float32.
    schedule = Flow()
    schedule.level = lambda t: Level(torch.full_like(t, 1e-24), torch.ones_like(t))
    points = torch.randn(10, 3)
    x = torch.randn(4, 3)
    torch.testing.assert_close(Empirical(schedule, points)(x, at(1.0, x)).x0, points.mean(0).expand(4, 3))


def test_samples_of_a_mixture_have_its_moments():
    mixture, n = a_mixture(SCHEDULES["cosine"]), 20_000
    x = mixture.sample(n, torch.Generator().manual_seed(0))
    assert torch.equal(x, mixture.sample(n, torch.Generator().manual_seed(0)))
    weights = mixture.log_weights.exp()
    mean = weights @ mixture.means
    C = mixture.bases @ torch.diag_embed(mixture.spectra) @ mixture.bases.mT
    second = (weights[:, None, None] * (C + mixture.means[:, :, None] * mixture.means[:, None])).sum(0)
    covariance = second - mean[:, None] * mean
    assert ((x.mean(0) - mean).abs() < 5 * (covariance.diag() / n).sqrt()).all()
    products = x[:, :, None] * x[:, None]
    assert ((products.mean(0) - second).abs() < 5 * products.std(0) / n**0.5).all()
    isotropic = Mixture(SCHEDULES["cosine"], torch.ones(1), torch.ones(1, 1, 2, 2), stds=torch.tensor([0.5]))
    drawn = isotropic.sample(n)
    assert drawn.shape == (n, 1, 2, 2)
    assert abs(drawn.std() - 0.5) < 5 * 0.5 / (8 * n) ** 0.5


def test_gaussians_made_of_points_have_their_moments():
    schedule, points = SCHEDULES["cosine"], torch.randn(40, 1, 2, 2)
    labels = torch.arange(40) % 3
    found = mixture(schedule, points, labels)
    assert torch.equal(found.log_weights.exp().mul(40).round(), torch.tensor([14.0, 13.0, 13.0]).double())
    x, t = torch.randn(9, 1, 2, 2, dtype=torch.float64), grid(9)
    for y in range(3):
        own = points[labels == y].double()
        of_class = gaussian(schedule, own)
        flat = own.flatten(1)
        C = torch.cov(flat.mT, correction=0)
        expected = Gaussian(schedule, own.mean(0), covariance=C)(x, t)
        for made in (of_class(x, t), found(x, t, Cond(label=torch.full((9,), y)))):
            torch.testing.assert_close(made.x0, expected.x0, rtol=1e-10, atol=1e-11)
    alone = mixture(schedule, points, None)(x, t)
    torch.testing.assert_close(alone.x0, gaussian(schedule, points, labels)(x, t).x0, rtol=1e-12, atol=1e-12)


def test_a_denoiser_of_data_without_classes_does_not_look_at_labels():
    schedule, x, t = SCHEDULES["cosine"], torch.randn(3, 2), grid(3)
    for exact in (Gaussian(schedule), Empirical(schedule, torch.randn(5, 2))):
        assert all(map(torch.equal, exact(x, t)[:2], exact(x, t, Cond(label=torch.tensor([7, -1, 0])))[:2]))


def test_what_has_no_answer_is_refused():
    schedule, x, t = SCHEDULES["cosine"], torch.randn(2, 2), grid(2)
    labelled = Empirical(schedule, torch.randn(4, 2), torch.tensor([0, 2, 2, 0]))
    with pytest.raises(ConfigError, match="class 1 has no data to go by; those that have some are 0, 2"):
        labelled(x, t, Cond(label=torch.tensor([-1, 1])))
    ones, means = torch.ones(2), torch.zeros(2, 2)
    with pytest.raises(ConfigError, match="here only 0, 2"):
        Mixture(schedule, ones, means, stds=ones, classes=torch.tensor([0, 2]))
    with pytest.raises(ConfigError, match="without classes"):
        Mixture(schedule, ones, means, stds=ones).class_log_prob(x, t)
    with pytest.raises(ConfigError, match="give one of them"):
        Mixture(schedule, ones, means)
    with pytest.raises(ConfigError, match="not all 0"):
        Mixture(schedule, 0 * ones, means, stds=ones)
    for wrong in ([[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.5], [0.0, 1.0]]):
        with pytest.raises(ConfigError, match="symmetric"):
            Gaussian(schedule, covariance=torch.tensor(wrong))
    with pytest.raises(ConfigError, match="analytic=empirical"):
        gaussian(schedule, torch.zeros(2, 3, 64, 64))
