"""The house: imports point down, and the mathematics is a plain PyTorch library without Lightning and Hydra."""

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import denoiselab

PACKAGE = Path(denoiselab.__file__).parent
# From the ground up: a room imports from its own floor and from those below. What is not listed is the ground floor.
FLOORS = ("", "metrics", "report", "assembly", "runs", "training", "tools", "cli")
# The rooms in which Lightning, Hydra or W&B may be imported, and what is built from these.
FRAME = {*FLOORS, "data", "pipeline"}

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


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, in its functions too, but not for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found & set(MODULES)


def floor(module: str) -> int:
    room = module.split(".")[1] if "." in module else ""
    return FLOORS.index(room) if room in FLOORS else 0


@pytest.mark.parametrize("module", [name for name in MODULES if name != "denoiselab"])
def test_a_module_imports_from_its_own_floor_and_those_below(module):
    above = {name for name in imports(MODULES[module]) if floor(name) > floor(module)}
    assert not above


def test_no_modules_import_one_another_in_a_circle():
    graph = {name: imports(path) - {name} for name, path in MODULES.items() if path.name != "__init__.py"}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def test_the_library_works_without_the_command_line():
    assert all(not name.startswith("denoiselab.cli") for m, p in MODULES.items() if floor(m) < 7 for name in imports(p))
    assert max(map(floor, MODULES)) == FLOORS.index("cli")
