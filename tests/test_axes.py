"""One table says what each option changes; whatever asks this question follows the table."""

import pytest
from omegaconf import OmegaConf

from denoiselab import axes
from denoiselab.assembly.configuration import CONF, Loader, composed
from denoiselab.assembly.sampling import recipe
from denoiselab.axes import Role, role
from denoiselab.errors import ConfigError, RunError
from denoiselab.report.sweep import _defines
from denoiselab.report.words import told
from denoiselab.runs import experiment, identity, trust

FOLDERS = {path.name for path in CONF.iterdir() if path.is_dir()}


def test_the_table_has_each_folder_of_conf_and_no_other():
    assert set(axes.AXES) == FOLDERS


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_each_option_of_a_command_is_in_the_table(command):
    keys = set(map(str, composed(command, ["run=x"] if command == "train" else [])))
    assert keys <= {*axes.AXES, *axes.VALUES}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sampler", Role.SAMPLING),
        ("sampler.steps", Role.SAMPLING),
        ("data.root", Role.RUNNING),
        ("data.rootless", Role.MODEL),
        ("trainer.devices", Role.RUNNING),
        ("trainer.max_steps", Role.TRAINING),
        ("conditioning@conditioning.first", Role.MODEL),
        ("hydra/launcher", Role.RUNNING),
        ("hydra.run.dir", Role.RUNNING),
        ("something_new", Role.TRAINING),
    ],
)
def test_an_option_has_the_role_of_its_longest_prefix_in_the_table(key, expected):
    assert role(key) is expected


@pytest.fixture
def tint(monkeypatch, tmp_path):
    """A new axis of sampling: one line in the table and a folder with an option."""
    monkeypatch.setitem(axes.AXES, "tint", Role.SAMPLING)
    (tmp_path / "tint").mkdir()
    (tmp_path / "tint" / "warm.yaml").write_text("_target_: denoiselab.thresholding.Clip\namount: 0.5\n")
    return tmp_path


def test_a_new_axis_is_known_everywhere(tint, tmp_path):
    loader = Loader("train", [str(tint)])
    assert "tint" in loader.groups()
    assert loader.options("tint") == ["warm"]
    cfg = composed("train", ["backbone=mlp"])
    OmegaConf.set_struct(cfg, False)
    with_tint = OmegaConf.merge(cfg, {"tint": OmegaConf.load(tint / "tint" / "warm.yaml")})
    plain = OmegaConf.to_container(with_tint, resolve=True)
    assert experiment.free("tint.amount")  # a resumed run may have another
    assert experiment.identity(plain) == experiment.identity(OmegaConf.to_container(cfg, resolve=True))
    assert "tint.amount" in dict(identity._leaves(plain))  # it decides the metrics of an evaluation
    assert _defines("tint.amount")  # and tells the jobs of a sweep apart
    assert told({"tint": {"amount": 0.5}}, {"tint": "warm"}) == {
        "inpainting": "none",
        "tint": "warm",
        "tint.amount": 0.5,
    }
    assert recipe(with_tint).words["tint"] == "Clip"  # the provenance of samples
    stranger = {"tint": {"_target_": "torch.utils.collect_env.run"}}
    with pytest.raises(RunError, match="do not trust"):
        trust.check(tmp_path / "model.safetensors", stranger, {})


def test_an_axis_of_the_model_makes_another_experiment(monkeypatch):
    monkeypatch.setitem(axes.AXES, "memory", Role.MODEL)
    before, now = {"memory": {"slots": 1}}, {"memory": {"slots": 2}}
    with pytest.raises(ConfigError, match=r"memory.slots: 1 -> 2"):
        experiment.changes(before, now)
