"""Every option in conf/ is composed, built and run: a training step, a loss on the test images, an image."""

import copy
import itertools
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor, nn

from denoiselab.assembly import rules
from denoiselab.assembly.configuration import CONF, Loader, composed
from denoiselab.assembly.sampling import recipe as recipe_of
from denoiselab.cli import checks
from denoiselab.conditioning import Wishes
from denoiselab.conditioning.wishes import numbered
from denoiselab.data import ImageDataModule
from denoiselab.data.source import to_float
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.guidance import Autoguidance, Classifier, Guidance
from denoiselab.nested import leaves
from denoiselab.objectives import CrossEntropy
from denoiselab.pipeline import Recipe
from denoiselab.runs import guides
from denoiselab.samplers.sampler import precise
from denoiselab.training import fit
from denoiselab.training.callbacks import LossByLogSNR
from denoiselab.training.parts import Parts
from denoiselab.training.parts import parts as assembled

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts the files
MODEL_AXES = (
    "schedule",
    "parameterization",
    "loss",
    "norm",
    "time_sampling",
    "conditioning",
    "backbone",
    "codec",
    "optimizer",
    "ema",
)
SAMPLING_AXES = ("sampler", "spacing", "guidance", "threshold")
SMALL = ["backbone=mlp", "backbone.width=16", "backbone.depth=1", "batch_size=8", "metrics=none", "logger=csv"]
QUICK = ["trainer=cpu", "trainer.max_steps=1", "trainer.log_every_n_steps=1"]


def options(axis: str) -> list[str]:
    return sorted(path.stem for path in (CONF / axis).glob("*.yaml"))


def small(*words: str) -> list[str]:
    """The words after a small configuration's own, less those of the backbone where another one is chosen."""
    own = [w for w in SMALL if not (w.startswith("backbone") and any(x.startswith("backbone=") for x in words))]
    return [*own, *words]


@cache
def option_of(axis: str, option: str) -> DictConfig:
    """One option's own part of a configuration; composing it is slow, and the matrices below use each many times."""
    return composed("train", small(f"{axis}={option}", *WITH.get((axis, option), [])))[axis]


def configured(base: DictConfig, **chosen: str) -> DictConfig:
    cfg = copy.copy(base)
    for axis, option in chosen.items():
        cfg[axis] = option_of(axis, option)
    return cfg


def refusal(words: list[str]) -> str | None:
    try:
        checks.check_job(Loader("train"), words)
    except ConfigError as error:
        return str(error)
    return None


def with_voice(parts: Parts) -> Parts:
    """The same parts, with no weight of the networks 0: as built, their last layers are, and silence all the others."""
    for network in (parts.pipeline.denoiser.backbone, parts.pipeline.conditioner):
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
    return parts


def learn(parts: Parts, batch: dict[str, Tensor]) -> None:
    """The losses of a batch are finite, and so is their gradient, which reaches every tensor of the network."""
    x0 = parts.pipeline.codec.encode(to_float(batch["image"]))
    told = numbered(parts.pipeline.conditioner, batch, range(len(x0)))
    losses = parts.objective(parts.pipeline.denoiser, x0, parts.pipeline.conditioner(told))
    assert losses.shape == (len(x0),)
    assert losses.isfinite().all()
    losses.mean().backward()
    for parameter in parts.pipeline.denoiser.backbone.parameters():
        assert parameter.grad is not None
        assert 0 < parameter.grad.abs().max() < math.inf


def step(parts: Parts) -> None:
    """One training step and two samples, all finite; a classifier makes none."""
    learn(with_voice(parts), parts.source.train.__getitems__(range(3)))
    if isinstance(parts.objective, CrossEntropy):
        return
    wish = Wishes(parts.pipeline.conditioner, parts.source.num_classes, parts.source.test)(range(2))
    assert parts.pipeline.sample(parts.recipe, range(2), wish, seed=0).images.shape == (2, *parts.source.shape)


# What an option needs beside it. Guides that are runs, tests/cli/test_guides.py makes; the matrices take plain ones.
EARS = ["backbone=unet", "backbone.channels=8", "backbone.blocks=1"]  # for channels and tokens, which an MLP has not
WITH = {
    ("schedule", "learned"): ["loss=vlb"],
    ("schedule", "table"): ["schedule.betas=[0.1,0.3,0.6,0.9]"],
    ("conditioning", "none"): ["guidance=none"],
    ("conditioning", "text"): ["backbone=dit", "backbone.heads=2"],
    ("conditioning", "text_trained"): ["backbone=dit", "backbone.heads=2"],
    ("conditioning", "segmentation"): [*EARS, "data=composition"],
    ("conditioning", "layout"): [*EARS, "data=composition"],
    ("conditioning", "layout_channels"): [*EARS, "data=composition"],
    ("conditioning", "colourisation"): [*EARS, "data=composition"],
    ("conditioning", "inpainting"): EARS,
    ("conditioning", "several"): EARS,
    ("conditioning", "super_resolution"): EARS,
    ("guidance", "cfg_each"): ["guidance.scales=[1.5]"],
    ("spacing", "custom"): ["spacing.times=[1,0.5,0.2]"],
}
APART = {  # tests/cli/test_latent_runs.py has the codecs and what trains them
    ("conditioning", "text_pretrained"),  # of a folder, which tests/cli/test_prompts.py makes
    *{("codec", option) for option in ("kl", "vq", "vae", "diffusers")},
    *{("experiment", option) for option in ("autoencoder", "vae", "vq", "latent")},
    ("loss", "autoencoder"),
    ("backbone", "none"),
    ("sampler", "prior"),
    ("loss", "cross_entropy"),
    ("backbone", "encoder"),
    ("guidance", "classifier"),
    ("guidance", "autoguidance"),
    ("backbone", "relu_mlp"),
}
EACH = [(a, o) for a in (*MODEL_AXES, *SAMPLING_AXES) for o in options(a) if (a, o) not in APART]


@pytest.mark.slow
@pytest.mark.parametrize(("axis", "option"), EACH)
def test_each_option_of_a_model_and_of_sampling_takes_a_step(axis, option, tmp_path):
    words = small(f"{axis}={option}", *WITH.get((axis, option), []), "sampler.steps=3", *QUICK)
    assert refusal(words) is None
    cfg = composed("train", words)
    parts = assembled(cfg)
    step(parts)
    system = fit.make_system(cfg, parts)
    trainer = fit.make_trainer(cfg, tmp_path, [])
    before = [p.detach().clone() for p in system.parameters()]
    trainer.fit(system, datamodule=ImageDataModule(parts.source, 8, 0))
    assert trainer.global_step == 1
    assert any(not torch.equal(a, b) for a, b in zip(before, system.parameters(), strict=True))


@pytest.mark.slow
def test_every_schedule_parameterization_and_loss_has_finite_errors_at_the_log_snr_that_it_reaches():
    for axis in ("schedule", "parameterization", "loss"):
        for option in of(axis):
            cfg = composed("train", small(f"{axis}={option}", *WITH.get((axis, option), [])))
            parts = assembled(cfg)
            with_voice(parts)
            rows = LossByLogSNR(n=12, levels=4).measured(fit.make_system(cfg, parts), parts.source)
            assert len(rows) >= (24 if axis != "schedule" else 15), option
            assert all(math.isfinite(row.eps_mse) and math.isfinite(row.loss) and row.eps_mse > 0 for row in rows), (
                option
            )


def assembled_parts(base: DictConfig, **chosen: str) -> Parts | None:
    """The parts of these options; None where they are refused, by the rules and by the parts alike."""
    cfg = configured(base, **chosen)
    try:
        parts = assembled(cfg)
    except IncompatibleError as reason:
        assert any(word in str(reason) for word in ("take", "predict"))
        with pytest.raises(IncompatibleError, match="take"):
            rules.check_rules(cfg)
        return None
    rules.check_rules(cfg)
    return parts


def of(axis: str) -> list[str]:
    return [option for option in options(axis) if (axis, option) not in APART]


def short_recipe(base: DictConfig, **chosen: str) -> Recipe:
    """Of three steps; ode, which chooses its own, gets tolerances that are soon met, as a learned schedule is slow."""
    cfg = configured(base, **chosen)
    cfg.sampler.steps = 3
    if chosen["sampler"] == "ode":
        cfg.sampler.rtol = cfg.sampler.atol = 0.1
    return recipe_of(cfg)


def refuses(sampler: str, schedule: str) -> bool:
    """One sampler alone refuses some schedules, those that end at alpha = 0: see the table of refusals."""
    return sampler == "langevin" and schedule in ("flow", "jsd")


@pytest.mark.slow
def test_every_schedule_with_every_parameterization_loss_and_sampler_takes_a_step_or_is_refused_with_a_reason():
    """The rules in rules/, which answer without torch, refuse exactly what the parts themselves refuse."""
    base, refused = composed("train", small("guidance=none")), []
    recipes = {sampler: short_recipe(base, sampler=sampler) for sampler in of("sampler")}
    # Stratified times of 8 are not all beyond t = 0.28, where sqrt_linear has ended and random_walk weighs nothing.
    batch = instantiate(base.data).train.__getitems__(range(8))
    times = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)
    for schedule, parameterization, loss in itertools.product(*map(of, ("schedule", "parameterization", "loss"))):
        parts = assembled_parts(base, schedule=schedule, parameterization=parameterization, loss=loss)
        if parts is None:
            refused.append((schedule, parameterization, loss))
            continue
        learn(with_voice(parts), batch)
        process = parts.pipeline.denoiser.schedule
        x_T = process.prior_std * torch.randn(2, 1, 8, 8)
        with torch.inference_mode():
            for sampler, recipe in recipes.items():
                if refuses(sampler, schedule):
                    continue
                denoise = precise(parts.pipeline.denoise_fn(recipe, torch.tensor([3, 7])))
                x, state = x_T, None
                for t, s in itertools.pairwise(times):
                    x, state = recipe.sampler.step(denoise, process, x, t, s, state, torch.randn_like)
                assert x.shape == x_T.shape
                assert x.isfinite().all(), (schedule, parameterization, loss, sampler)
    losses = len(of("loss"))
    to_zero = {(s, p, x) for s in ("flow", "jsd") for p in ("eps", "score") for x in of("loss")}
    ended = {("sqrt_linear", "mean", x) for x in of("loss")}
    learned = {("learned", p, x) for p in of("parameterization") for x in of("loss") if x != "vlb"}
    assert losses == 14
    assert set(refused) == to_zero | ended | learned


@pytest.mark.slow
def test_every_time_sampling_with_every_schedule_and_norm_takes_a_step():
    base = composed("train", small("sampler.steps=1", "guidance=none"))
    for schedule, times, norm in itertools.product(*map(of, ("schedule", "time_sampling", "norm"))):
        parts = assembled_parts(base, schedule=schedule, time_sampling=times, norm=norm)
        assert (parts is None) == (schedule == "learned")
        if parts is not None:
            step(parts)


@pytest.mark.slow
def test_every_sampler_with_every_spacing_schedule_guidance_and_threshold_makes_finite_images():
    base = composed("train", small())
    models = {s: with_voice(assembled_parts(base, schedule=s, loss="vlb")) for s in of("schedule")}
    chosen = [(*pair, "cfg", "clip") for pair in itertools.product(of("sampler"), of("spacing"))]
    chosen += itertools.product(of("sampler"), ["trailing"], of("guidance"), of("threshold"))
    for sampler, spacing, guidance, threshold in chosen:
        if sampler == "ode" and spacing != "trailing":
            continue  # it takes its own steps whatever the spacing
        recipe = short_recipe(base, sampler=sampler, spacing=spacing, guidance=guidance, threshold=threshold)
        for schedule, parts in models.items():
            if refuses(sampler, schedule):
                continue
            images = parts.pipeline.sample(recipe, range(2), torch.tensor([3, 7]), seed=0).images  # NaN would raise
            assert images.shape == (2, 1, 8, 8)


def guides_of(base: DictConfig) -> dict[str, Guidance]:
    """Guidance by other models: class scores that are linear in x_t, and a weak model with a schedule of its own."""
    weight = torch.randn(64, 10)
    weak = guides.WeakGuide(with_voice(assembled(base)).pipeline)
    return {
        "classifier": Classifier(lambda x_t, t, schedule: x_t.flatten(1) @ weight),
        "autoguidance": Autoguidance(weak),
    }


@torch.inference_mode()
def drawn(parts: Parts, recipe: Recipe) -> Tensor:
    """What a sampler makes of one seed, before it is rounded to pixels."""
    torch.manual_seed(0)
    process = parts.pipeline.denoiser.schedule
    denoise = parts.pipeline.denoise_fn(recipe, torch.tensor([3, 7]))
    x = recipe.sampler(denoise, process, process.prior_std * torch.randn(2, 1, 8, 8))
    assert x.shape == (2, 1, 8, 8)
    assert x.isfinite().all()
    return x


@pytest.mark.slow
def test_guidance_by_other_models_acts_with_every_sampler_and_parameterization():
    base = composed("train", small("guidance=none", "threshold=dynamic"))  # clip would make them alike where all is cut
    recipes = {sampler: short_recipe(base, sampler=sampler) for sampler in of("sampler")}
    others = guides_of(base)
    for schedule, parameterization in itertools.product(("cosine", "ve", "flow"), of("parameterization")):
        parts = assembled_parts(base, schedule=schedule, parameterization=parameterization)
        if parts is None:
            continue  # refused, see above
        with_voice(parts)
        for sampler, recipe in recipes.items():
            if refuses(sampler, schedule):
                continue
            unguided = drawn(parts, recipe)
            for name, guidance in others.items():
                guided = drawn(parts, replace(recipe, guidance=guidance))
                assert not guided.equal(unguided), (schedule, parameterization, sampler, name)


@pytest.mark.parametrize("option", options("trainer"))
def test_each_trainer_is_built_or_refused_for_want_of_its_device(option, tmp_path):
    cfg = composed("train", [f"trainer={option}"])
    kind = {"gpu": "gpu", "ddp": "gpu", "fsdp": "gpu", "slurm": "gpu", "mps": "mps"}.get(option)
    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind is not None and not there[kind]:
        with pytest.raises(ConfigError, match=r"No supported gpu|MPSAccelerator"):
            fit.make_trainer(cfg, tmp_path, [])
    else:
        assert fit.make_trainer(cfg, tmp_path, []).max_steps == 800


@pytest.mark.slow
@pytest.mark.parametrize("option", options("data"))
def test_each_data_set_takes_a_step(option, tmp_path):
    words = [f"data={option}", "sampler.steps=1"]
    if option in ("swiss_roll", "moons", "mixture", "checkerboard", "pinwheel"):
        words += ["threshold=none", "callbacks=points", "conditioning=none", "guidance=none"]
    if option == "fashion_mnist":
        if not FASHION.is_dir():
            pytest.skip("Debian's package dataset-fashion-mnist is not installed")
        words.append(f"data.root={FASHION}")
    if option == "image_folder":
        rng = np.random.default_rng(0)
        for i, name in enumerate(["cat", "dog"] * 4):
            (tmp_path / name).mkdir(exist_ok=True)
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
        words += [f"data.root={tmp_path}", "data.size=16"]
    assert refusal(small(*words)) is None
    step(assembled(composed("train", small(*words))))


@pytest.mark.slow
def test_images_without_classes_are_refused_with_what_to_take_and_run_with_it(tmp_path):
    for i in range(4):
        Image.fromarray(np.full((16, 16), 60 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    words = small("data=image_folder", f"data.root={tmp_path}", "data.size=16", "sampler.steps=1")
    with pytest.raises(ConfigError, match="conditioning=none guidance=none metrics=none"):
        assembled(composed("train", words))
    step(assembled(composed("train", [*words, "conditioning=none", "guidance=none", "metrics=none"])))


@pytest.mark.parametrize("option", options("callbacks"))
def test_each_callback_is_built(option):
    for part in composed("train", [f"callbacks={option}"]).callbacks.values():
        instantiate(part)


@pytest.mark.slow
@pytest.mark.parametrize("option", of("experiment"))
def test_each_experiment_takes_a_step(option):
    words = [f"experiment={option}", "sampler.steps=1"]
    assert refusal(words) is None
    step(assembled(composed("train", words)))


@pytest.mark.slow
def test_the_schedule_of_the_guide_works_as_it_is_written_there(tmp_path, monkeypatch):
    guide = (CONF.parent / "docs" / "guide" / "parts.md").read_text()
    python = guide.split("`my_schedules.py`")[1].split("```python\n")[1].split("```")[0]
    yaml = guide.split("linear_log_snr.yaml`:")[1].split("```yaml\n")[1].split("```")[0]
    (tmp_path / "my_schedules.py").write_text(python)
    (tmp_path / "conf" / "schedule").mkdir(parents=True)
    (tmp_path / "conf" / "schedule" / "linear_log_snr.yaml").write_text(yaml)
    monkeypatch.syspath_prepend(tmp_path)
    words = small("schedule=linear_log_snr", "schedule.end=-12", "sampler.steps=2")
    cfg = checks.check_job(Loader("train", [str(tmp_path / "conf")]), words)
    parts = assembled(cfg)
    schedule = parts.pipeline.denoiser.schedule
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    assert torch.allclose(schedule.log_snr(t), 10 - 22 * t, rtol=0, atol=1e-9)
    assert torch.allclose(schedule.time(schedule.log_snr(t)), t, rtol=0, atol=1e-9)
    step(parts)


def test_the_library_example_of_the_guide_gives_what_it_says(capsys):
    guide = (CONF.parent / "docs" / "guide" / "library.md").read_text()
    code = guide.split("```python\n")[1].split("```")[0]
    torch.manual_seed(0)
    space: dict = {}
    exec(code, space)
    # 20,000 draws: the mean's standard error is .0035; 50 first-order steps leave 3% of the standard deviation.
    assert abs(space["x"].mean() - 3.0) < 0.02
    assert abs(space["x"].std() - 0.5) < 0.03


def test_the_readme_lists_every_option():
    readme = (CONF.parent / "README.md").read_text()
    table = readme.split("| part | options |")[1].split("\n\n")[0]
    rows = {r.split("|")[1].strip(): r.split("|")[2] for r in table.splitlines()[2:]}
    for row, listed in rows.items():
        axes = [axis.strip("` ") for axis in row.split(",")]
        for axis, words in zip(axes, listed.split(";"), strict=True):
            assert sorted(w.strip() for w in words.split(",")) == options(axis), axis


def test_every_test_that_the_fault_table_names_is_there():
    tests = CONF.parent / "tests"
    page = (CONF.parent / "docs" / "reliability.md").read_text()
    table = page.split("| fault | what happens | test |")[1].split("\n\n")[0]
    rows, there = table.splitlines()[2:], ""
    assert len(rows) > 15
    for row in rows:
        for named in re.findall(r"`([^`]+)`", row.rpartition("|")[0].rpartition("|")[2]):
            path, _, test = named.rpartition("::") if ".py::" in named else ("", "", named)
            if named.endswith(".py"):
                path, test = named, ""
            there = (tests / path).read_text() if path else there
            assert re.search(f"def test_\\w*{test.strip('…').removeprefix('test_')}", there), f"{named} in {row}"


@pytest.mark.parametrize("option", options("experiment"))
def test_what_an_experiment_says_holds(option):
    said = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{option}.yaml") or OmegaConf.create())
    cfg = composed("train", [f"experiment={option}"])
    for key, value in leaves(said):
        if not key.startswith(("defaults", "hydra")) and "${" not in str(value):
            assert OmegaConf.select(cfg, key) == value, key
