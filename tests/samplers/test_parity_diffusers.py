"""Step by step agreement with diffusers' schedulers on the same noise, times and network.

Theirs runs in its own float32. Ours runs in float64, on a schedule made of the scheduler's own float32 table, so that
what is left is the rounding of their coefficients and states: 6e-8 of numbers near 1, amplified by 1/alpha = 157 where
they divide by alpha at the noise's end, which makes 1e-5, and contracted on the way.
Their step i is our t = (i + 1)/1000, and after their last step is t = 0.
"""

import pytest
import torch

from denoiselab.analytic import Mixture
from denoiselab.samplers import (
    DDIM,
    DDPM,
    PLMS,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp2S,
    Euler,
    EulerAncestral,
    Heun,
    UniPC,
)
from denoiselab.schedules import Flow, Table, linear, scaled_linear
from denoiselab.spacings import Custom

BETAS = {
    "linear": ({"beta_start": 1e-4, "beta_end": 0.02}, linear()),
    "scaled_linear": ({"beta_start": 0.00085, "beta_end": 0.012}, scaled_linear()),
}
over_betas = pytest.mark.parametrize("betas", list(BETAS))
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs, with numpy 2


@pytest.fixture(scope="module")
def diffusers():
    import diffusers  # seconds, which only these tests should cost

    return diffusers


def table_of(scheduler):
    """The scheduler's float32 abar, taken as it is."""
    alpha_bar = torch.cat([torch.ones(1), scheduler.alphas_cumprod]).double()
    return Table(-alpha_bar.diff() / alpha_bar[:-1])


def network(schedule):
    """A smooth network in x and t, exact for two Gaussians in two dimensions, in float64."""
    means, stds = torch.tensor([[-0.8, 0.3], [0.7, 0.6]]), torch.tensor([0.3, 0.5])
    return Mixture(schedule, torch.tensor([0.4, 0.6]), means, stds=stds)


def start():
    return torch.randn(16, 2, generator=torch.Generator().manual_seed(1))


def step_time(scheduler, i):
    return (float(i) + 1) / 1000


def sigma_time(scheduler, i):
    """The time of their sigma/alpha, where their steps are rounded."""
    return float(table_of(scheduler).time(-2 * torch.log(scheduler.sigmas[scheduler.step_index or 0].double())))


def theirs(scheduler, denoise, time, stop, options):
    """The state after each step, and the times at which the network was evaluated. Not the steps from `stop` on."""
    x, states, times = start(), [], []
    in_n = scheduler.init_noise_sigma != 1  # these hold x/alpha, and alpha^2 = 1/(sigma^2 + 1)
    if in_n:
        x = x * torch.sqrt(scheduler.sigmas[0] ** 2 + 1)
    for i in scheduler.timesteps[:stop]:
        times.append(time(scheduler, i))
        x_t = scheduler.scale_model_input(x, i)
        eps = denoise(x_t, torch.full((len(x),), times[-1], dtype=torch.float64)).eps
        x = scheduler.step(eps, i, x, **options).prev_sample
        states.append(x / torch.sqrt(scheduler.sigmas[scheduler.step_index] ** 2 + 1) if in_n else x)
    return states, times + [time(scheduler, i) for i in scheduler.timesteps[len(times) :]]


def ours(make, times, denoise, schedule, noise=torch.randn_like):
    """The state after each step from the given times, the last one to 0."""
    states = []
    make(len(times), Custom(times))(denoise, schedule, start().double(), noise, lambda step: states.append(step.x))
    return states


def compare(scheduler, make, steps=10, seed=None, atol=1e-5, time=step_time, every=1, kept=None, stop=None, **options):
    """Every state, those before the last where `stop` is -1.

    `every`: how many of their times make one step of ours; `kept`: which of their states ours has too.
    """
    scheduler.set_timesteps(steps)
    schedule, noise = table_of(scheduler), torch.randn_like
    if seed is not None:
        draws = torch.Generator().manual_seed(seed)
        options["generator"] = torch.Generator().manual_seed(seed)
        noise = lambda x: torch.randn(x.shape, generator=draws).to(x)  # noqa: E731
    found, times = theirs(scheduler, network(schedule), time, stop, options)
    expected = ours(make, list(dict.fromkeys(times))[::every], network(schedule), schedule, noise)
    found = found if kept is None else [found[i] for i in kept]
    for a, b in zip(found, expected[:stop], strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=atol)


@over_betas
def test_its_table_is_ours_but_for_float32(diffusers, betas):
    given, schedule = BETAS[betas]
    alpha_bar = diffusers.DDPMScheduler(beta_schedule=betas, **given).alphas_cumprod.double()
    exact = schedule(torch.arange(1, 1001, dtype=torch.float64) / 1000).alpha ** 2
    # A product of 1000 factors, each rounded, at random: the square root of 1000 roundings, and some.
    torch.testing.assert_close(alpha_bar, exact, rtol=100 * 6e-8, atol=0)


@over_betas
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(diffusers, betas, variance):
    scheduler = diffusers.DDPMScheduler(
        beta_schedule=betas, clip_sample=False, variance_type=f"fixed_{variance}", **BETAS[betas][0]
    )
    # Its beta = 1 - abar_t/abar_s is a float32 difference of numbers near 1: the rounding is 1e-4 of small ones.
    compare(scheduler, lambda n, spacing: DDPM(n, spacing, variance), steps=50, seed=3, atol=2e-5)


@over_betas
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(diffusers, betas, eta):
    # Without set_alpha_to_one its last step stops at its alpha_1; ours goes to alpha = 1.
    scheduler = diffusers.DDIMScheduler(
        beta_schedule=betas, clip_sample=False, set_alpha_to_one=True, **BETAS[betas][0]
    )
    compare(scheduler, lambda n, spacing: DDIM(n, spacing, eta), steps=20, seed=3, eta=eta)


@over_betas
def test_pndm_without_its_runge_kutta_steps(diffusers, betas):
    scheduler = diffusers.PNDMScheduler(
        beta_schedule=betas, skip_prk_steps=True, set_alpha_to_one=True, **BETAS[betas][0]
    )
    # Its first state is the Euler point, where it evaluates, and then it steps again from the start. Known difference:
    # its last step, to alpha = 1, is still Adams-Bashforth's; ours is DDIM's.
    compare(scheduler, PLMS, kept=range(1, 10), stop=-1)


@over_betas
@pytest.mark.parametrize(
    ("name", "make", "seed", "kept"),
    [
        ("EulerDiscreteScheduler", Euler, None, None),
        ("EulerAncestralDiscreteScheduler", EulerAncestral, 3, None),
        ("HeunDiscreteScheduler", Heun, None, [*range(1, 18, 2), 18]),  # its other states are the Euler points
    ],
)
def test_the_schedulers_of_k_diffusion(diffusers, betas, name, make, seed, kept):
    # "leading": with "linspace" they have times between the table's own, where they interpolate sigma.
    scheduler = getattr(diffusers, name)(beta_schedule=betas, timestep_spacing="leading", **BETAS[betas][0])
    compare(scheduler, make, seed=seed, kept=kept)


@over_betas
@pytest.mark.parametrize("steps", [2, 10, 20])
@pytest.mark.parametrize(
    ("algorithm", "make", "seed"), [("dpmsolver++", DPMpp2M, None), ("sde-dpmsolver++", DPMpp2MSDE, 3)]
)
def test_dpm_solver_multistep(diffusers, betas, steps, algorithm, make, seed):
    # Its last step, to sigma = 0, is of first order whatever its lower_order_final, as ours is.
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_schedule=betas, algorithm_type=algorithm, solver_type="midpoint", **BETAS[betas][0]
    )
    compare(scheduler, make, steps=steps, seed=seed)


@over_betas
def test_dpm_solver_singlestep(diffusers, betas):
    # Its midpoint is the next time of its grid, so in a grid even in log-SNR every second time is ours. It would take
    # times rounded to whole steps; here the network is evaluated at those of its sigmas.
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        beta_schedule=betas, solver_order=2, use_exponential_sigmas=True, lower_order_final=True, **BETAS[betas][0]
    )
    assert scheduler.get_order_list(9) == [1, 2, 1, 2, 1, 2, 1, 2, 1]
    compare(scheduler, DPMpp2S, steps=9, time=sigma_time, every=2, kept=[1, 3, 5, 7, 8])


@over_betas
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("lower_order_final", [True, False])
def test_unipc(diffusers, betas, variant, order, lower_order_final):
    scheduler = diffusers.UniPCMultistepScheduler(
        beta_schedule=betas,
        solver_order=order,
        solver_type=variant,
        lower_order_final=lower_order_final,
        **BETAS[betas][0],
    )
    # Known difference: its last step, to sigma = 0, is not finite with bh1, whose B(h) is infinite there, and at an
    # order above 1. Ours is of order 1 always.
    finite = variant == "bh2" and (lower_order_final or order == 1)
    compare(
        scheduler,
        lambda n, spacing: UniPC(n, spacing, order, variant, lower_order_final),
        stop=None if finite else -1,
    )


def test_flow_match_euler(diffusers):
    scheduler, flow = diffusers.FlowMatchEulerDiscreteScheduler(), Flow()
    scheduler.set_timesteps(sigmas=[1 - i / 10 for i in range(10)])
    denoise, x, states = network(flow), start(), []
    times = scheduler.sigmas[:-1].double().tolist()
    for i, t in zip(scheduler.timesteps, times, strict=True):
        prediction = denoise(x, torch.full((len(x),), t, dtype=torch.float64))
        x = scheduler.step(prediction.eps - prediction.x0, i, x).prev_sample
        states.append(x)
    for a, b in zip(states, ours(Euler, times, denoise, flow), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-6)  # no division by a small alpha
