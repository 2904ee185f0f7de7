import pytest
import torch

from cases import SCHEDULES, grid, over
from denoiselab.analytic import Gaussian
from denoiselab.conditioning import Cond
from denoiselab.denoiser import Prediction
from denoiselab.guidance import ClassifierFree, Unguided
from denoiselab.schedules import like


class GaussianOfClass:
    """The exact denoiser of x0 ~ N(cond.vector, std^2), which keeps the sizes of the batches it was asked for."""

    def __init__(self, schedule, std=0.5):
        self.schedule, self.std, self.batches = schedule, std, []

    def __call__(self, x_t, t, cond):
        self.batches.append(len(x_t))
        mean = cond.vector.reshape(-1, *[1] * (x_t.ndim - 1))
        centred = Gaussian(self.schedule, std=self.std)(x_t - like(self.schedule(t).alpha, x_t) * mean, t)
        return Prediction(x0=centred.x0 + mean, eps=centred.eps)


COND, NULL = Cond(vector=torch.tensor([1.0, -2.0, 3.0]).double()), Cond(vector=torch.tensor([0.5, 0.5, 0.5]).double())


def state(*shape):
    return torch.randn(3, *shape, dtype=torch.float64), grid(3, low=0.2, high=0.9)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 1.2, 7.5])
@pytest.mark.parametrize("shape", [(), (2,), (3, 4, 4)])
def test_guidance_of_gaussian_classes_has_its_closed_form(schedule, scale, shape):
    # E[x0|x_t] is affine in the class's mean, so that guiding it is the answer at mean null + scale (cond - null).
    denoiser = GaussianOfClass(SCHEDULES[schedule])
    x_t, t = state(*shape)
    found = ClassifierFree(scale)(denoiser, COND, NULL)(x_t, t)
    expected = denoiser(x_t, t, Cond(vector=NULL.vector + scale * (COND.vector - NULL.vector)))
    torch.testing.assert_close(found.x0, expected.x0, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.eps, expected.eps, rtol=1e-12, atol=1e-13)


@over("schedule", SCHEDULES)
def test_a_guided_prediction_is_still_one_of_x_t(schedule):
    x_t, t = state(2)
    alpha, sigma = (like(part, x_t) for part in SCHEDULES[schedule](t))
    x0, eps = ClassifierFree(4.0)(GaussianOfClass(SCHEDULES[schedule]), COND, NULL)(x_t, t)
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_t, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("scale", "batches"), [(0, [3]), (0.0, [3]), (1, [3]), (1.0, [3]), (1.5, [6]), (-1.0, [6])])
def test_guidance_asks_once_for_twice_the_batch_and_for_the_batch_alone_where_it_is_off(scale, batches):
    denoiser = GaussianOfClass(SCHEDULES["cosine"])
    ClassifierFree(scale)(denoiser, COND, NULL)(*state(2))
    assert denoiser.batches == batches


def test_unguided_scale_one_and_the_condition_alone_are_the_same():
    denoiser, (x_t, t) = GaussianOfClass(SCHEDULES["cosine"]), state(2)
    for guidance in (Unguided(), ClassifierFree(1.0)):
        assert all(map(torch.equal, guidance(denoiser, COND, NULL)(x_t, t), denoiser(x_t, t, COND)))


def test_scale_zero_is_the_unconditional_model():
    denoiser, (x_t, t) = GaussianOfClass(SCHEDULES["cosine"]), state(2)
    assert all(map(torch.equal, ClassifierFree(0.0)(denoiser, COND, NULL)(x_t, t), denoiser(x_t, t, NULL)))
