"""The mathematics is a plain PyTorch library: a notebook that uses it loads neither Lightning nor Hydra."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import denoiselab

PACKAGE = Path(denoiselab.__file__).parent
# The rooms in which Lightning, Hydra or W&B may be imported, and what is built from these.
FRAME = {"system", "data", "callbacks", "cli", "pipeline", "metrics", "checkpoint_io", "trainer", "selftest", "tools"}

PROGRAM = """
import importlib, json, sys
import denoiselab
alone = "torch" in sys.modules
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps([alone, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def mathematics() -> list[str]:
    """Every module outside the frame: a new one is mathematics until it is written down above."""
    paths = (path.relative_to(PACKAGE.parent).with_suffix("") for path in sorted(PACKAGE.rglob("*.py")))
    return [".".join(path.parts) for path in paths if path.parts[1] not in FRAME and path.name != "__init__"]


@pytest.fixture(scope="module")
def imported() -> tuple[bool, set[str]]:
    """In a process of its own: whether `import denoiselab` brought torch, and all that the mathematics brings."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(mathematics())]
    alone, modules = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return alone, set(modules)


def test_the_mathematics_is_what_it_says():
    rooms = "schedules.schedule parameterizations weightings time_sampling spacings denoiser guidance"
    rooms += " objectives.objective thresholding analytic ema optimizers randomness"
    rooms += " samplers.ddim backbones.unet conditioning.cond codecs.codec"
    assert {f"denoiselab.{room}" for room in rooms.split()} <= set(mathematics())


@pytest.mark.parametrize("name", ["pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb"])
def test_the_mathematics_does_without(imported, name):
    assert name not in imported[1]


def test_importing_denoiselab_alone_does_not_import_torch(imported):
    alone, modules = imported
    assert not alone
    assert "torch" in modules


@pytest.mark.parametrize("name", denoiselab.__all__)
def test_every_public_name_is_importable_from_denoiselab(name):
    found = getattr(import_module("denoiselab"), name)
    assert found.__name__ == name
    assert found.__module__.startswith("denoiselab.")


def test_what_code_outside_this_repository_imports_is_there():
    from denoiselab import Level, Prediction

    assert Level(alpha=1, sigma=0) == (1, 0)
    assert Prediction(x0=1, eps=0)[:2] == (1, 0)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Sampla'"):
        _ = denoiselab.Sampla
