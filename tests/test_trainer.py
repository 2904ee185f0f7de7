"""Faster, smaller, in parts or in fewer bits: the training stays the same one."""

import logging

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from conftest import Specks, fit, tiny_pipeline, tiny_system, weights
from denoiselab.backbones import MLP, DiT, Encoder, JiT, ReLUMLP, UNet
from denoiselab.backbones.layers import blocks
from denoiselab.conditioning import Cond
from denoiselab.errors import ConfigError
from denoiselab.training.trainer import Speed


def trained(folder, dropout=0.0, **options):
    system = tiny_system(tiny_pipeline(unet=True, dropout=dropout))
    fit(system, folder, steps=3, **options)
    return system


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"))


def close(one, other):
    """Up to rounding: a step of Adam is of size lr = .01, whatever the size of a gradient that rounding has tipped."""
    torch.testing.assert_close(weights(one.pipeline), weights(other.pipeline), rtol=0, atol=3e-4)


def test_gradient_checkpointing_gives_the_same_weights_bit_by_bit(tmp_path):
    """Dropout too, which draws the same numbers when a block is computed again."""
    plain, found = (trained(tmp_path, dropout=0.2, gradient_checkpointing=on) for on in (False, True))
    assert torch.equal(weights(found.pipeline), weights(plain.pipeline))
    assert list(found.state_dict()) == list(plain.state_dict())


BACKBONES = {
    "unet": lambda: UNet((1, 8, 8), 0, channels=16),
    "dit": lambda: DiT((1, 8, 8), 0, width=32),
    "jit": lambda: JiT((1, 8, 8), 0, patch=2, width=32),
    "mlp": lambda: MLP((1, 8, 8), 0, width=256),
    "relu_mlp": lambda: ReLUMLP((1, 8, 8), 0, width=256),
    "encoder": lambda: Encoder((1, 8, 8), 0, channels=16, num_classes=3),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_gradient_checkpointing_keeps_less_for_the_backward_pass(name):
    def kept(backbone):
        sizes = []
        with saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            backbone(torch.randn(4, 1, 8, 8), torch.rand(4), Cond())
        return sum(sizes)

    before = kept(BACKBONES[name]())
    system = tiny_system()
    system.pipeline.denoiser.backbone = backbone = BACKBONES[name]()
    Speed(compile=False, channels_last=False, gradient_checkpointing=True).setup(None, system, "fit")
    assert blocks(backbone)
    assert kept(backbone) < 0.7 * before


def test_channels_last_is_the_same_training_up_to_rounding(plain, tmp_path):
    """No dropout, which draws its numbers in the order in which memory has them."""
    found = trained(tmp_path, channels_last=True)
    convolutions = [m for m in found.pipeline.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert convolutions
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    close(found, plain)
    assert [s.stride() for s in found.ema.shadow] == [p.stride() for p in found.ema.live]


def test_a_compiled_network_is_the_same_training_up_to_rounding_and_has_the_same_names(plain, tmp_path):
    found = trained(tmp_path, compile=True)
    assert found.pipeline.denoiser.backbone._compiled_call_impl is not None
    assert list(found.state_dict()) == list(plain.state_dict())
    close(found, plain)


def test_compilation_without_a_compiler_is_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        fit(tiny_system(), tmp_path, compile=True)


class Seen(Callback):
    """The labels of each batch and the number of optimizer steps that had been made."""

    def __init__(self):
        self.batches, self.validated = [], []

    def on_train_batch_start(self, trainer, system, batch, batch_idx):
        self.batches.append((trainer.global_step, batch["image"].flatten(1).sum(1).tolist()))

    def on_validation_start(self, trainer, system):
        self.validated.append(trainer.global_step)


def test_a_batch_in_parts_has_the_images_of_the_whole_and_validation_comes_at_the_same_steps(tmp_path):
    whole, parts = Seen(), Seen()
    fit(tiny_system(), tmp_path / "1", 6, [whole], batch_size=8, validate_every=2)
    fit(tiny_system(), tmp_path / "2", 6, [parts], batch_size=4, validate_every=2, accumulate_grad_batches=2)
    for step in range(6):
        (images,) = (images for at, images in whole.batches if at == step)
        halves = [images for at, images in parts.batches if at == step]
        assert len(halves) == 2
        assert halves[0] + halves[1] == images
    assert whole.validated == parts.validated == [2, 4, 6]


def test_the_gradient_of_a_batch_in_parts_is_the_mean_of_the_parts(tmp_path):
    """Without momentum or clipping one step of SGD shows it: twice the same part is that part."""
    source = Specks(train=4)

    def sgd(parameters, max_steps):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)

    class Recorded(Callback):
        def __init__(self):
            self.gradients = []

        def on_after_backward(self, trainer, system):
            self.gradients.append(torch.cat([p.grad.flatten().clone() for p in system.parameters()]))

    recorded, system = Recorded(), tiny_system(optimizer=sgd)
    before = weights(system.pipeline)
    fit(system, tmp_path, 1, [recorded], source, batch_size=2, accumulate_grad_batches=2, gradient_clip_val=None)
    first, both = recorded.gradients
    assert not torch.equal(first, both)
    torch.testing.assert_close(before - weights(system.pipeline), 0.1 * both, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_train_and_average_in_their_own(precision, tmp_path):
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    system = tiny_system(tiny_pipeline(unet=True))
    before = weights(system.pipeline).double()
    fit(system, tmp_path, steps=3, precision=precision)
    after = weights(system.pipeline)
    wanted = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}
    assert after.dtype == wanted[precision]
    assert after.isfinite().all()
    assert (after.double() - before).abs().max() > 1e-3
    assert all(shadow.dtype == torch.float32 for shadow in system.ema.shadow)
