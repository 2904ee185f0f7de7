"""The likelihood axis as a person uses it: while training, and of what was trained."""

import json
import math
import sys

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor

from denoiselab.analytic import gaussian
from denoiselab.assembly.configuration import CONF, composed
from denoiselab.assembly.evaluation import likelihood as likelihood_of
from denoiselab.cli import main
from denoiselab.codecs import Codec
from denoiselab.data import Digits
from denoiselab.data.source import to_float
from denoiselab.errors import IncompatibleError
from denoiselab.randomness import generator
from denoiselab.schedules import cosine
from denoiselab.training.parts import parts as assembled

SMALL = ["backbone=mlp", "backbone.width=16", "backbone.depth=1", "batch_size=8", "metrics=none", "logger=csv"]
TRAIN = [*SMALL, "trainer=cpu", "trainer.max_steps=2", "trainer.val_check_interval=2", "sampler.steps=2"]
OPTIONS = sorted(path.stem for path in (CONF / "likelihood").glob("*.yaml"))
FEW = {"bound": "likelihood.method.K=3", "bound_log_snr": "likelihood.method.K=3", "ode": "likelihood.method.steps=4"}


def say(monkeypatch, command: str, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", [str(CONF.parent / f"{command}.py"), *words])
    GlobalHydra.instance().clear()
    try:
        main(command)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != "none"])
def test_each_option_gives_finite_bits_of_a_network_as_it_is_drawn(option):
    cfg = composed("train", [*SMALL, f"likelihood={option}", "likelihood.n=3", FEW[option]])
    parts = assembled(cfg)
    judged = likelihood_of(cfg, parts.source)(parts.pipeline)
    assert judged.name == "bits_per_dim"
    assert 0 < judged.figures["bits_per_dim"] < 20
    assert judged.figures["likelihood.n"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["edm", "ve", "flow schedule.log_snr_min=-20", "sub_vp", "learned"])
@pytest.mark.parametrize("option", ["bound", "bound_log_snr", "ode"])
def test_each_is_finite_at_the_ends_of_every_kind_of_schedule(schedule, option):
    words = [*f"schedule={schedule}".split(), f"likelihood={option}", "likelihood.n=2", FEW[option]]
    cfg = composed("train", [*SMALL, "loss=vlb", *words])
    parts = assembled(cfg)
    assert likelihood_of(cfg, parts.source)(parts.pipeline).figures["bits_per_dim"] > 0


class Autoencoder(Codec):
    def encode(self, images: Tensor) -> Tensor:
        return images

    decode = encode

    def latent_shape(self, image_shape):
        return image_shape


def test_latents_are_refused_when_the_run_is_built(monkeypatch):
    monkeypatch.setattr("denoiselab.codecs.Identity", Autoencoder)  # which conf/codec/identity.yaml names
    with pytest.raises(IncompatibleError, match="bits/dim of latents"):
        assembled(composed("train", SMALL))
    assembled(composed("train", [*SMALL, "likelihood=none"]))


@pytest.mark.slow
def test_a_run_has_its_bits_and_evaluate_finds_them_again(monkeypatch, tmp_path, capsys):
    where = [f"hydra.run.dir={tmp_path / 'run'}", f"cache={tmp_path}"]
    assert say(monkeypatch, "train", *TRAIN, "likelihood.n=4", *where) == 0
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (tmp_path / "run" / "likelihood.png").exists()
    assert "bits/dim (VariationalBound, n 4)" in capsys.readouterr().err
    words = [f"run={tmp_path / 'run'}", "device=cpu", "metrics=none", "likelihood=bound"]
    assert say(monkeypatch, "evaluate", *words, "likelihood.n=4", f"hydra.run.dir={tmp_path / 'same'}") == 0
    same = json.loads((tmp_path / "same" / "metrics.json").read_text())
    assert same["bits_per_dim"] == pytest.approx(trained["bits_per_dim"], rel=1e-6), "other threads, other sums"
    assert same["likelihood.K"] == trained["likelihood.K"] == 10
    assert (tmp_path / "same" / "likelihood.csv").exists()
    nothing = [*words[:3], f"hydra.run.dir={tmp_path / 'none'}"]
    assert say(monkeypatch, "evaluate", *nothing) == 2
    assert "take metrics=fid or likelihood=bound" in capsys.readouterr().err


@pytest.mark.slow
def test_an_exact_denoisers_bits_are_those_of_its_density(monkeypatch, tmp_path):
    """Of one Gaussian with full covariance, blurred by the noise at t_min, at the points drawn in the bins."""
    words = ["analytic=gaussian", "data=digits", "schedule=cosine", "metrics=none", "likelihood=ode", "device=cpu"]
    numbers = ["likelihood.n=10", "likelihood.method.steps=40", "likelihood.method.probes=16"]
    assert say(monkeypatch, "evaluate", *words, *numbers, f"hydra.run.dir={tmp_path}") == 0
    told = json.loads((tmp_path / "metrics.json").read_text())

    source, schedule = Digits(), cosine()
    t = schedule.time(-2 * math.log(0.01))
    model = gaussian(schedule, to_float(source.train.images).double())
    uniform = [torch.rand(1, 8, 8, generator=generator(0, "dequantise", i), dtype=torch.float64) for i in range(10)]
    x = to_float(source.test.images[:10]).double() + (2 * torch.stack(uniform) - 1) / 255
    alpha = schedule(t).alpha
    known = (-model.log_density(alpha * x, t) / 64 - torch.log(alpha)) / math.log(2) + math.log2(127.5)
    error = 4 * told["bits_per_dim_error/probes"] + told["bits_per_dim_error/solver"]
    assert error < 0.05
    assert told["bits_per_dim"] == pytest.approx(float(known.mean()), abs=error)
