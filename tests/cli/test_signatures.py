"""The limits of a part are read from its source, and nothing of it runs."""

import subprocess
import sys
import textwrap
from typing import Literal

import pytest

from denoiselab.cli import signatures
from denoiselab.cli.signatures import limit_of
from denoiselab.limits import Count, Positive, Share, refusal

MINE = """
from __future__ import annotations

import typing as t
from typing import TYPE_CHECKING, Annotated, Literal, Optional, TypedDict, Unpack

from denoiselab import limits
from denoiselab.limits import Count as Number, Limit, checked
from .bases import Base, Shapes

if TYPE_CHECKING:
    from torch import Tensor

raise RuntimeError("this module was run")

SIDES = Literal["left", "right"]
MOST = 4
Both = SIDES


class Options(TypedDict, total=False):
    rate: limits.Positive


class Mine(Base):
    kind: str = "mine"

    @checked
    def __init__(self, steps: Number, order: Annotated[int, Limit(1, MOST, whole=True)], side: Both = "left",
                 parts: t.Sequence[limits.Share] = (), x: "Tensor | None" = None, often: Optional[Number] = None,
                 below: Annotated[float, Limit(-2, high=-1)] = -1, quoted: "Number" = 1, run: print("run") = 0,
                 unknown: Annotated[int, Limit(nowhere)] = 0, more: int = 0, **options: Unpack[Options]) -> None:
        super().__init__(**options)


class Inherits(Mine): ...


class Alone(Base):
    def __init__(self, size: Number) -> None: ...


class Forwards(Base):
    def __init__(self, size: Number, **more) -> None: ...


def factory(steps: Number, **options: Unpack[Options]): ...


Named = Mine
"""
BASES = """
from denoiselab.limits import Share
from .mine import Mine as Shapes

class Base:
    def __init__(self, eta: Share) -> None: ...
"""


def limits_of(target):
    found = {name: limit_of(target, name) for name in signatures._parameters(target)}
    return {name: hint for name, hint in found.items() if hint is not None}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    package = tmp_path / "my_parts_by_source"
    package.mkdir()
    (package / "__init__.py").write_text("if TYPE_CHECKING:\n    from .mine import Mine as Short\n1 / 0\n")
    (package / "mine.py").write_text(MINE)
    (package / "bases.py").write_text(BASES)
    (tmp_path / "my_broken_part.py").write_text("def broken(:\n")
    (tmp_path / "my_circle.py").write_text("A = B\nB = A\nclass C(C): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for known in (signatures.limit_of, signatures._parameters, signatures._source):
        known.cache_clear()
    return "my_parts_by_source"


def test_a_users_part_is_read_and_not_run(mine):
    known = limits_of(f"{mine}.mine.Mine")
    assert known["steps"] == known["quoted"] == Count
    assert known["side"] == Literal["left", "right"]
    assert refusal(known["parts"], [1, 2]) == "a list, each item from 0 to 1"
    assert known["often"] == Count | None
    assert known["rate"] == Positive
    assert refusal(known["order"], 5) == "from 1 to 4"
    assert refusal(known["below"], -3) == "from -2 to -1"
    assert not {"x", "run", "unknown", "more"} & set(known)
    assert mine not in sys.modules


@pytest.mark.parametrize("name", ["mine.Inherits", "mine.Named", "Short"])
def test_a_part_is_found_by_any_of_its_names(mine, name):
    assert limits_of(f"{mine}.{name}") == limits_of(f"{mine}.mine.Mine")


def test_only_a_constructor_that_forwards_keywords_has_the_parameters_of_its_bases(mine):
    assert limits_of(f"{mine}.mine.Alone") == {"size": Count}
    assert limits_of(f"{mine}.mine.Forwards") == {"size": Count, "eta": Share}
    assert limits_of(f"{mine}.mine.factory") == {"steps": Count, "rate": Positive}


@pytest.mark.parametrize(
    "target",
    ["nowhere.Part", "my_parts_by_source.mine.Nothing", "my_broken_part.broken", "my_circle.A", "my_circle.C", "None"],
)
def test_a_target_without_a_source_has_no_limits(mine, target):
    assert limit_of(target, "steps") is None


def test_the_limits_of_all_options_are_read_without_torch():
    code = """
    import sys
    from denoiselab.cli import checks, signatures
    from denoiselab.assembly.configuration import composed
    for word in ("seed=0", "experiment=few_steps", "codec=diffusers", "conditioning=text", "experiment=points"):
        assert len(checks.limits(composed("train", [word]))) > 50
    assert signatures.limit_of("torch.optim.Adam", "lr") is None
    heavy = {"torch", "pytorch_lightning", "numpy", "sklearn"} & set(sys.modules)
    assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
