import pytest
import torch

from cases import SCHEDULES, grid, over
from denoiselab.analytic import Gaussian, Mixture
from denoiselab.conditioning import Cond
from denoiselab.denoiser import Prediction
from denoiselab.errors import IncompatibleError
from denoiselab.guidance import (
    AtSameSNR,
    Autoguidance,
    Classifier,
    ClassifierFree,
    ClassifierFreeEach,
    Unguided,
)
from denoiselab.schedules import like


class GaussianOfClass:
    """The exact denoiser of x0 ~ N(cond.vector, std^2), which records the sizes of its batches."""

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
    torch.testing.assert_close(found.x0, expected.x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.eps, expected.eps, rtol=1e-12, atol=1e-12)


@over("schedule", SCHEDULES)
def test_a_guided_prediction_is_still_one_of_x_t(schedule):
    x_t, t = state(2)
    alpha, sigma = (like(part, x_t) for part in SCHEDULES[schedule](t))
    x0, eps, _ = ClassifierFree(4.0)(GaussianOfClass(SCHEDULES[schedule]), COND, NULL)(x_t, t)
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_t, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("scale", "batches"), [(0, [3]), (0.0, [3]), (1, [3]), (1.0, [3]), (1.5, [6]), (-1.0, [6])])
def test_guidance_takes_one_pass_over_twice_the_batch_and_over_the_batch_alone_where_it_is_off(scale, batches):
    denoiser = GaussianOfClass(SCHEDULES["cosine"])
    ClassifierFree(scale)(denoiser, COND, NULL)(*state(2))
    assert denoiser.batches == batches


def test_unguided_scale_one_and_the_condition_alone_are_the_same():
    denoiser, (x_t, t) = GaussianOfClass(SCHEDULES["cosine"]), state(2)
    for guidance in (Unguided(), ClassifierFree(1.0)):
        assert all(map(torch.equal, guidance(denoiser, COND, NULL)(x_t, t)[:2], denoiser(x_t, t, COND)[:2]))


def test_scale_zero_is_the_unconditional_model():
    denoiser, (x_t, t) = GaussianOfClass(SCHEDULES["cosine"]), state(2)
    assert all(map(torch.equal, ClassifierFree(0.0)(denoiser, COND, NULL)(x_t, t)[:2], denoiser(x_t, t, NULL)[:2]))


# Where, how strongly and by what.


@over("schedule", SCHEDULES)
def test_an_interval_guides_inside_and_leaves_the_conditional_prediction_outside(schedule):
    schedule = SCHEDULES[schedule]
    x_t, n = torch.randn(4, 2).double(), torch.tensor([0.15, 0.2, 2.0, 4.9]).double()
    t = schedule.time(-2 * torch.log(n))
    denoiser = GaussianOfClass(schedule)
    cond, null = (Cond(vector=torch.cat([c.vector, c.vector[:1]])) for c in (COND, NULL))
    found = ClassifierFree(3.0, sigma_low=0.199, sigma_high=4.5)(denoiser, cond, null)(x_t, t)
    scale = torch.tensor([1.0, 3.0, 3.0, 1.0]).double()
    expected = denoiser(x_t, t, Cond(vector=null.vector + scale * (cond.vector - null.vector)))
    torch.testing.assert_close(found.x0, expected.x0, rtol=1e-11, atol=1e-11)


def test_outside_of_its_interval_guidance_costs_one_pass():
    denoiser = GaussianOfClass(SCHEDULES["edm"])
    guided = ClassifierFree(3.0, sigma_low=0.2, sigma_high=4.5)(denoiser, COND, NULL)
    for sigma, batch in ((0.1, 3), (1.0, 6), (10.0, 3)):
        guided(torch.randn(3, 2).double(), torch.full((3,), sigma / 80).double())
        assert denoiser.batches[-1] == batch


class Counted:
    """A schedule that counts its evaluations."""

    def __init__(self, schedule):
        self.schedule, self.levels, self.log_snrs = schedule, 0, 0

    def __call__(self, t):
        self.levels += 1
        return self.schedule(t)

    def log_snr(self, t):
        self.log_snrs += 1
        return self.schedule.log_snr(t)


@pytest.mark.parametrize(("interval", "log_snrs"), [({}, 0), ({"sigma_low": 0.1}, 1), ({"sigma_high": 5.0}, 1)])
@pytest.mark.parametrize("guidance", [lambda **o: ClassifierFree(3.0, **o), lambda **o: ClassifierFreeEach([3.0], **o)])
@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_guidance_evaluates_the_schedule_for_an_interval_only_where_it_has_a_limit(
    interval, log_snrs, guidance, rescale
):
    denoiser, (x_t, t) = GaussianOfClass(SCHEDULES["cosine"]), state(4)
    exact, schedule = denoiser.__call__, Counted(SCHEDULES["cosine"])

    class Denoiser:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x_t, t, cond):
            return exact(x_t, t, cond)

    denoise = guidance(**interval, rescale=rescale)(Denoiser(), COND, NULL)
    for calls in range(1, 4):
        denoise(x_t, t)
        assert (schedule.log_snrs, schedule.levels) == (calls * log_snrs, calls * (rescale > 0))


@pytest.mark.parametrize("scale", [-1.0, 0.1, 1.2, 7.5])
def test_an_interval_around_all_noise_levels_guides_as_one_without_limits_to_the_bit(scale):
    denoiser, (x_t, t) = GaussianOfClass(SCHEDULES["cosine"]), state(2)
    found = ClassifierFree(scale, sigma_low=1e-9, sigma_high=1e9)(denoiser, COND, NULL)(x_t, t)
    assert all(map(torch.equal, found[:2], ClassifierFree(scale)(denoiser, COND, NULL)(x_t, t)[:2]))


@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_rescaling_gives_each_sample_a_share_of_the_conditional_standard_deviation(phi):
    denoiser, (x_t, t) = GaussianOfClass(SCHEDULES["cosine"]), state(4, 4)
    plain, strong = ClassifierFree(6.0)(denoiser, COND, NULL)(x_t, t), denoiser(x_t, t, COND)
    found = ClassifierFree(6.0, rescale=phi)(denoiser, COND, NULL)(x_t, t)
    spread = [part.x0.flatten(1).std(1) for part in (found, strong, plain)]
    torch.testing.assert_close(spread[0], phi * spread[1] + (1 - phi) * spread[2], rtol=1e-12, atol=0)
    alpha, sigma = (like(part, x_t) for part in SCHEDULES["cosine"](t))
    torch.testing.assert_close(alpha * found.x0 + sigma * found.eps, x_t, rtol=0, atol=1e-12)


def test_an_even_x0_is_not_rescaled():
    class Even:
        schedule = SCHEDULES["flow"]

        def __call__(self, x_t, t, cond):
            return Prediction(torch.zeros_like(x_t), x_t)

    x_t, t = torch.randn(2, 3, 3).double(), torch.ones(2).double()
    cond, null = (Cond(vector=c.vector[:2]) for c in (COND, NULL))
    found = ClassifierFree(2.0, rescale=0.7)(Even(), cond, null)(x_t, t)
    assert torch.equal(found.x0, torch.zeros_like(x_t))


MEANS = torch.tensor([[-1.0, 0.3], [0.8, 0.9], [0.5, -1.2], [2.0, 0.0]]).double()


def mixture(schedule):
    return Mixture(
        schedule,
        torch.tensor([0.1, 0.4, 0.3, 0.2]).double(),
        MEANS,
        stds=torch.tensor([0.3, 0.5, 0.2, 0.4]).double(),
        classes=torch.tensor([0, 0, 1, 2]),
    )


@over("schedule", [name for name in SCHEDULES if name != "learned"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_classifier_guidance_by_the_exact_posterior_is_classifier_free_guidance(schedule, scale):
    # grad log p(y|x_t) = grad log p(x_t|y) - grad log p(x_t) (SCIENCE §5): the unconditional model pushed by the exact
    # classifier with scale s is uncond + s (cond - uncond).
    schedule = SCHEDULES[schedule]
    exact, labels = mixture(schedule), torch.tensor([0, 1, 2, 0, 1])
    t = schedule.time(torch.linspace(4, -4, 5, dtype=torch.float64))
    alpha, sigma = schedule(t)
    x_t = (
        like(alpha, labels[:, None].double()) * MEANS[labels] + like(sigma, MEANS[labels]) * torch.randn(5, 2).double()
    )
    cond, null = Cond(label=labels), Cond(label=torch.full_like(labels, -1))
    free = ClassifierFree(scale)(exact, cond, null)(x_t, t)
    by_classifier = Classifier(lambda x, t, _: exact.class_log_prob(x, t), scale)

    class Unconditional:
        schedule = exact.schedule

        def __call__(self, x_t, t, cond):
            return exact(x_t, t, null)

    found = by_classifier(Unconditional(), cond, null)(x_t, t)
    # The classifier's gradient is by automatic differentiation: some more roundings.
    torch.testing.assert_close(found.eps, free.eps, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.x0, free.x0, rtol=1e-12, atol=1e-12)


def test_classifier_guidance_works_where_sampling_has_turned_gradients_off():
    exact = mixture(SCHEDULES["cosine"])
    guided = Classifier(lambda x, t, _: exact.class_log_prob(x, t), 2.0)
    with torch.inference_mode():
        label, x_t = torch.tensor([0, 1]), torch.randn(2, 2).double()
        found = guided(exact, Cond(label=label), Cond(label=-torch.ones_like(label)))(x_t, grid(2, low=0.3, high=0.6))
    assert found.x0.isfinite().all()


def test_at_alpha_zero_a_classifier_does_nothing_and_elsewhere_it_leaves_a_prediction_of_x_t():
    exact, scores = mixture(SCHEDULES["flow"]), torch.randn(2, 3).double()
    guided = Classifier(lambda x, t, _: x @ scores, 2.0)
    label, x_t = torch.tensor([0, 1]), torch.randn(2, 2).double()
    denoise = guided(exact, Cond(label=label), Cond(label=-torch.ones_like(label)))
    one = torch.ones(2).double()
    assert all(map(torch.equal, denoise(x_t, one)[:2], exact(x_t, one, Cond(label=label))[:2]))
    for t in (1.0, 0.999, 0.5):
        x0, eps, _ = denoise(x_t, t * one)
        torch.testing.assert_close((1 - t) * x0 + t * eps, x_t, rtol=0, atol=1e-12)


def test_guidance_by_a_classifier_without_labels_is_refused():
    with pytest.raises(IncompatibleError, match="needs labels"):
        Classifier(lambda x, t, _: x)(mixture(SCHEDULES["flow"]), Cond(), Cond())


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
def test_autoguidance_moves_away_from_the_weak_model(scale):
    schedule = SCHEDULES["cosine"]
    strong, weak = GaussianOfClass(schedule), Gaussian(schedule, 0.0, 2.0)
    x_t, t = state(2)
    found = Autoguidance(lambda x, t, _, label: weak(x, t), scale)(strong, COND, NULL)(x_t, t)
    for part in ("x0", "eps"):
        a, b = getattr(weak(x_t, t), part), getattr(strong(x_t, t, COND), part)
        torch.testing.assert_close(getattr(found, part), a + scale * (b - a), rtol=1e-13, atol=1e-13)


def test_a_model_guided_by_itself_is_as_it_was():
    # An exact denoiser takes the label itself, a network the embedding made of it.
    exact, label = mixture(SCHEDULES["cosine"]), torch.tensor([0, 1, 2])
    labels = []

    def itself(x, t, _, label):
        labels.append(label)
        return exact(x, t, Cond(label=label))

    cond, (x_t, t) = Cond(label=label), state(2)
    found = Autoguidance(itself, 3.0)(exact, cond, Cond(label=-torch.ones_like(label)))(x_t, t)
    torch.testing.assert_close(found.x0, exact(x_t, t, cond).x0, rtol=0, atol=1e-14)
    assert torch.equal(labels[0], label)


@over("schedule", SCHEDULES)
def test_a_model_of_another_schedule_is_evaluated_at_the_same_snr(schedule):
    # The exact denoiser of the same data predicts the same x0, whatever schedule has made the image noisy.
    schedule = SCHEDULES[schedule]
    t = schedule.time(torch.linspace(4, -4, 3, dtype=torch.float64))
    x_t, _ = state(2)
    for other in ("linear_continuous", "flow", "edm"):
        there = AtSameSNR(SCHEDULES[other])(x_t, t, schedule)
        found = Gaussian(SCHEDULES[other], 0.3, 0.5)(*there).x0
        torch.testing.assert_close(found, Gaussian(schedule, 0.3, 0.5)(x_t, t).x0, rtol=1e-12, atol=1e-12)
