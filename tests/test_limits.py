"""Limits in signatures: what they allow, what they say, and the error that knows the parameter."""

import math
import pickle
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from denoiselab.errors import ConfigError, InvalidValue, located
from denoiselab.limits import Count, Finite, Limit, Natural, NonNegative, Share, ShareBelowOne, checked, refusal
from denoiselab.samplers import DDIM
from denoiselab.spacings import Trailing


@pytest.mark.parametrize(
    ("hint", "values"),
    [
        (Count, [1, 10**12, np.int64(3)]),
        (Natural, [0, 1]),
        (Finite, [-1e300, 3, np.float32(0.5)]),
        (Share, [0, 1, 0.5]),
        (ShareBelowOne, [0, math.nextafter(1, 0)]),
        (Share | None, [None, 1.0]),
        (Literal["small", "large"], ["small", "large"]),
        (Literal[True, False, "warn"], [True, False, "warn"]),
        (Sequence[Count], [[], [1, 2], (3,), OmegaConf.create([1])]),
        (tuple[Share, Share], [[0.9, 0.99]]),
        (Share | Sequence[Share], [0.5, [0.5, 1]]),
        (Tensor | Sequence[Share], [torch.ones(2), [1, 0]]),
        (Annotated[int, Limit(8, 256, whole=True, multiple=8)], [8, 16, 256]),
    ],
)
def test_a_limit_allows(hint, values):
    assert [refusal(hint, value) for value in values] == [None] * len(values)


@pytest.mark.parametrize(
    ("hint", "value", "allowed"),
    [
        (Count, 0, "at least 1"),
        (Count, 1.5, "a whole number, at least 1"),
        (Count, True, "a whole number, at least 1"),
        (Count, None, "a whole number, at least 1"),
        (Count, math.inf, "a whole number, at least 1"),
        (NonNegative, math.inf, "a finite number, at least 0"),
        (Finite, math.nan, "a finite number"),
        (Finite, "a", "a number"),
        (Share, 2, "from 0 to 1"),
        (ShareBelowOne, 1, "at least 0 and below 1"),
        (Share | None, -1, "from 0 to 1, or null"),
        (Literal["small", "large", "learned"], "tiny", "small, large or learned"),
        (Literal[1, 3] | None, 2, "1 or 3, or null"),
        (Literal[1, 3], True, "1 or 3"),
        (Sequence[Count], [1, 0], "a list, each item at least 1"),
        (Sequence[Count], 3, "a list, such as [3]"),
        (Tensor | Sequence[Share], 0.5, "a list, such as [0.5]"),
        (Annotated[int, Limit(8, 256, whole=True, multiple=8)], 12, "a multiple of 8, from 8 to 256"),
    ],
)
def test_a_refusal_says_what_is_allowed(hint, value, allowed):
    assert refusal(hint, value) == allowed


@checked
def part(eta: Share, *rest: int, name: str = "a", variance: Literal["small", "large"] = "small") -> float:
    return eta


def test_a_checked_function_names_its_parameter_however_it_is_given():
    assert part(1, 2, 3, name="b", variance="large") == 1
    with pytest.raises(InvalidValue, match=r"^eta must be from 0 to 1 \(got 2\)$"):
        part(2)
    with pytest.raises(InvalidValue, match=r"^eta must be from 0 to 1 \(got 2\)$"):
        part(eta=2)
    with pytest.raises(InvalidValue, match=r"^variance must be small or large \(got null\)$"):
        part(1, variance=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"part\(\) missing 1 required positional argument: 'eta'"):
        part()  # type: ignore[call-arg]


def test_a_whole_number_with_a_point_is_refused_with_how_to_write_it():
    with pytest.raises(InvalidValue, match=r"^steps must be a whole number, at least 1 \(got 10\.0\); write 10$"):
        DDIM(10.0, Trailing())  # type: ignore[arg-type]


def test_an_invalid_value_can_be_given_its_place_and_sent_to_another_process():
    error = InvalidValue("steps", 0, "at least 1", "take 50")
    assert isinstance(error, ConfigError)
    assert str(error.at("sampler")) == "sampler.steps must be at least 1 (got 0); take 50"
    copied = pickle.loads(pickle.dumps(error.at("sampler")))
    assert str(copied) == "sampler.steps must be at least 1 (got 0); take 50"
    assert (copied.name, copied.value, copied.allowed, copied.hint) == ("sampler.steps", 0, "at least 1", "take 50")


@pytest.mark.parametrize("whole", [True, False])
def test_a_part_that_hydra_makes_of_nested_options_is_named_by_all_of_them(whole):
    node = {"_target_": "denoiselab.objectives.WeightedMSE", "time_sampler": None}
    node["weighting"] = {"_target_": "denoiselab.weightings.MinSNR", "gamma": 0}
    cfg = OmegaConf.create({"loss": node})
    with pytest.raises(InvalidValue, match=r"^loss\.weighting\.gamma must be above 0 \(got 0\)$"), located("loss"):
        instantiate(cfg.loss if whole else OmegaConf.create(node))


def test_other_errors_pass_where_options_are_located():
    with pytest.raises(ZeroDivisionError), located("loss"):
        1 / 0  # noqa: B018
