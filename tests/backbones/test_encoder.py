import pytest
import torch

from denoiselab.backbones import Encoder
from denoiselab.conditioning import Cond
from denoiselab.errors import ConfigError


def encoder(**changes):
    options = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "heads": 2, "dropout": 0.0}
    return Encoder((1, 8, 8), 0, 5, **options | changes).eval()


def test_it_gives_a_score_for_each_class_that_depends_on_the_image_and_on_the_time():
    torch.manual_seed(0)
    made, x = encoder(), torch.randn(3, 1, 8, 8)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    scores = made(x, t, Cond())
    assert scores.shape == (3, 5)
    assert not torch.allclose(scores, made(x + 1, t, Cond()))
    assert not torch.allclose(scores, made(x, t.flip(0), Cond())[[0, 1, 2]])
    one = torch.cat([made(x[i : i + 1], t[i : i + 1], Cond()) for i in range(3)])
    torch.testing.assert_close(one, scores, rtol=1e-4, atol=1e-5)  # a sample's scores are its own


def test_its_gradient_in_the_image_is_not_zero():
    torch.manual_seed(0)
    made, x = encoder(), torch.randn(2, 1, 8, 8, requires_grad=True)
    made(x, torch.rand(2), Cond())[:, 0].sum().backward()
    assert (x.grad != 0).any()


@pytest.mark.slow
def test_it_learns_to_tell_bright_from_dark():
    torch.manual_seed(0)
    made = encoder().train()
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    label = torch.arange(32) % 2
    x = 0.3 * torch.randn(32, 1, 8, 8) + label[:, None, None, None]
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(made(x, torch.full((32,), 0.3), Cond()), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


@pytest.mark.parametrize(
    ("shape", "classes", "told"), [((1, 8, 8), 1, "the data have 1"), ((1, 7, 7), 5, "sides of 7 and 7")]
)
def test_what_it_cannot_tell_apart_or_halve_is_refused(shape, classes, told):
    with pytest.raises(ConfigError, match=told):
        Encoder(shape, 0, classes)
