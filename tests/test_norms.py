import pytest
import torch

from denoiselab.errors import ConfigError
from denoiselab.norms import L1, L2, Huber

ERROR = torch.linspace(-3, 3, 61, dtype=torch.float64)[None]


def one(value):
    return torch.full((1,), value, dtype=torch.float64)


@pytest.mark.parametrize("scale", [-2.0, 0.5, 3.0])
def test_a_norm_is_that_of_the_scaled_error(scale):
    e = scale * ERROR
    for norm, size in ((L2(), e**2), (L1(), e.abs())):
        torch.testing.assert_close(norm(ERROR, one(scale)), size, rtol=1e-14, atol=0)


@pytest.mark.parametrize("delta", [0.2, 1.0, 100.0])
def test_huber_is_the_square_up_to_delta_and_goes_on_as_its_tangent(delta):
    found, e = Huber(delta)(ERROR, one(1.0)), ERROR.abs()
    inside = e <= delta
    torch.testing.assert_close(found[inside], e[inside] ** 2)
    torch.testing.assert_close(found[~inside], delta**2 + 2 * delta * (e[~inside] - delta), rtol=1e-13, atol=0)


def test_a_huber_without_a_square_is_refused():
    with pytest.raises(ConfigError, match=r"^delta must be above 0"):
        Huber(0.0)
