"""AutoencoderKL of diffusers as a codec, from a folder that diffusers itself has saved, and runs in its latents."""

import re
import sys
from pathlib import Path

import pytest
import torch
from test_resume import train

from denoiselab.assembly.sampling import recipe as recipe_of
from denoiselab.codecs.diffusers import DiffusersVAE, diffusers
from denoiselab.errors import IncompatibleError, RunError
from denoiselab.runs.load import open_run

pytestmark = pytest.mark.slow  # diffusers takes seconds to import
QUICK = [
    *["experiment=latent", "codec=diffusers", "backbone=mlp", "backbone.width=16", "backbone.depth=1"],
    *["trainer=cpu", "logger=csv", "batch_size=100", "metrics=none", "callbacks.samples.n=4", "sampler.steps=2"],
    *["callbacks.denoising.n=1", "trainer.max_steps=2", "callbacks.checkpoint.monitor=null"],
]


def saved(folder: Path, seed: int = 0, channels: int = 3) -> Path:
    """A tiny one, drawn at random, that halves the sides."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    block = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = AutoencoderKL(
        channels, channels, **block, block_out_channels=[8, 8], layers_per_block=1, latent_channels=2, norm_num_groups=4
    )
    vae.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("diffusers") / "vae")


def test_it_gives_what_diffusers_gives(folder):
    from diffusers import AutoencoderKL

    theirs, ours = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False), DiffusersVAE(str(folder), (3, 8, 8))
    x, z = torch.rand(2, 3, 8, 8) * 2 - 1, torch.randn(2, 2, 4, 4)
    with torch.no_grad():
        pairs = ((ours.encode(x), theirs.encode(x).latent_dist.mode()), (ours.decode(z), theirs.decode(z).sample))
    for one, other in pairs:  # weights that lie elsewhere in memory are summed in another order
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert ours.latent_shape((3, 8, 8)) == (2, 4, 4)


def test_grey_images_are_repeated_to_its_channels_and_decoded_to_their_mean(folder):
    grey, colour = (DiffusersVAE(str(folder), (channels, 8, 8)) for channels in (1, 3))
    x, z = torch.rand(2, 1, 8, 8), torch.randn(2, 2, 4, 4)
    assert torch.equal(grey.encode(x), colour.encode(x.repeat(1, 3, 1, 1)))
    assert torch.equal(grey.decode(z), colour.decode(z).mean(1, keepdim=True))


def test_its_weights_are_none_of_a_checkpoint_but_the_scale_is(folder):
    assert set(diffusers(str(folder), (3, 8, 8)).state_dict()) == {"shift", "scale"}


@pytest.mark.parametrize(
    ("shape", "told"), [((2, 8, 8), "of images of 3 channels, and these have 2"), ((3, 9, 9), "are 9 and 9")]
)
def test_images_that_it_cannot_encode_are_refused(folder, shape, told):
    with pytest.raises(IncompatibleError, match=told):
        DiffusersVAE(str(folder), shape)


def test_a_folder_without_one_is_refused(tmp_path):
    with pytest.raises(RunError, match=re.escape("is no folder of an AutoencoderKL")):
        DiffusersVAE(str(tmp_path), (3, 8, 8))
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_text("nothing")
    with pytest.raises(RunError, match="is no AutoencoderKL of diffusers"):
        DiffusersVAE(str(tmp_path), (3, 8, 8))


def test_without_diffusers_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(RunError, match=re.escape("pip install 'denoiselab[diffusers]'")):
        DiffusersVAE(str(folder), (3, 8, 8))


def test_a_run_trains_in_its_latents_samples_and_refuses_other_weights_in_its_place(tmp_path):
    vae, run = saved(tmp_path / "vae"), tmp_path / "run"
    said = train(*QUICK, f"codec.folder={vae}", f"hydra.run.dir={run}", f"cache={tmp_path / 'cache'}")
    assert said.status == 0, said.err
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name for name in state if name.startswith("pipeline.codec.")} == {
        "pipeline.codec.shift",
        "pipeline.codec.scale",
    }
    pipeline, cfg, _ = open_run(str(run), "last", torch.device("cpu"))
    images = pipeline.sample(recipe_of(cfg), range(2), torch.arange(2), seed=0).images
    assert images.shape == (2, 1, 8, 8)
    said = train(f"run={run}", "resume=true", "trainer.max_steps=3")
    assert said.status == 0, said.err
    saved(vae, seed=1)
    with pytest.raises(RunError, match=r"has other weights than this run was trained with \(sha256 \w{16}, and they"):
        open_run(str(run), "last", torch.device("cpu"))
    said = train(f"run={run}", "resume=true", "trainer.max_steps=4")
    assert said.status == 2
    assert "has other weights than this run was trained with" in said.err
    assert len([line for line in said.err.splitlines() if line.startswith("train.py")]) == 1
