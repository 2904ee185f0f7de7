r"""The patch-adversarial loss of autoencoders, in its hinge form.

PatchGAN (Isola 2017, arXiv:1611.07004), VQGAN (Esser 2021, arXiv:2012.09841), hinge (Lim & Ye 2017, arXiv:1705.02894).
The discriminator D scores each patch, high for real ones. Its loss is
$\tfrac12 E[\mathrm{relu}(1 - D(x)) + \mathrm{relu}(1 + D(\hat x))]$, and the autoencoder's $-E[D(\hat x)]$.

One step of one optimizer minimises both: simultaneous gradient descent, in which neither sees the other's new weights.
$\hat x$ is detached in the discriminator's loss, and the discriminator's weights in the autoencoder's. So the sum gives
each network exactly the gradient of its own loss, until gradients are clipped by their common norm
(trainer.gradient_clip_val).
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as nnf

from denoiselab import distributed
from denoiselab.backbones.unet import group_norm
from denoiselab.errors import ConfigError
from denoiselab.limits import Count, Natural, NonNegative, checked


class Discriminator(nn.Module):
    """Maps images: (B, C, H, W) to scores (B, 1, h, w) of overlapping patches, after `halvings` of their sides."""

    def __init__(self, image_channels: int, channels: int, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = image_channels
        for i in range(halvings):
            outputs = channels * min(2**i, 8)
            layers.append(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1))
            layers += [group_norm(outputs)] if i else []
            layers.append(nn.LeakyReLU(0.2))
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.to(next(self.parameters()).dtype)).to(images.dtype)


class Adversarial(nn.Module):
    """The adversarial loss, 0 for both parts until `start` optimizer steps are done.

    weight: of the autoencoder's part; adaptive: multiplies it by |grad of the other losses|/|grad of this one|, both at
    the last layer of the decoder (VQGAN, eq. 7). image_shape: (C, H, W). Raises ConfigError if the sides of the images
    cannot be halved that often.
    """

    @checked
    def __init__(
        self,
        image_shape: tuple[int, ...],
        weight: NonNegative,
        adaptive: bool = True,
        start: Natural = 0,
        channels: Count = 32,
        halvings: Count = 2,
    ) -> None:
        super().__init__()
        if min(image_shape[1:]) < 2**halvings:
            raise ConfigError(
                f"loss.adversarial.halvings={halvings} leave nothing of {min(image_shape[1:])} pixels; take fewer"
            )
        self.weight, self.adaptive, self.start = weight, adaptive, start
        self.discriminator = Discriminator(image_shape[0], channels, halvings)

    def of_autoencoder(self, images: Tensor) -> Tensor:
        """Returns -D(x_hat): (B,), with gradients for the images and none for the discriminator."""
        weights = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        return -functional_call(self.discriminator, weights, images).flatten(1).mean(1)

    def of_discriminator(self, real: Tensor, made: Tensor) -> Tensor:
        """Returns the hinge loss: (B,), with gradients for the discriminator and none for the images."""
        return hinge(self.discriminator(real.detach()), self.discriminator(made.detach()))

    def forward(self, real: Tensor, made: Tensor, others: Tensor, last_layer: Tensor, step: int) -> Tensor:
        """Returns the sum of both parts: (B,), after `step` optimizer steps; others: (B,), the other losses."""
        generator = self.of_autoencoder(made)
        balance = _balance(others.mean(), generator.mean(), last_layer) if self.adaptive else 1.0
        begun = float(step >= self.start)  # not skipped, so that every process has a gradient for every weight
        return begun * (self.weight * balance * generator + self.of_discriminator(real, made))


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """Returns the discriminator's loss for scores (B, 1, h, w): (B,)."""
    return (nnf.relu(1 - real) + nnf.relu(1 + made)).flatten(1).mean(1) / 2


def _balance(others: Tensor, generator: Tensor, last_layer: Tensor) -> float:
    """Returns the ratio of the two gradients' norms over the global batch, at most 10^4."""
    ranks = distributed.world_size()
    pair = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in (others, generator)]
    pair = [gradient.to(torch.promote_types(gradient.dtype, torch.float32)) for gradient in pair]
    norms = [(distributed.all_sum(gradient) / ranks).norm() for gradient in pair]
    return float((norms[0] / (norms[1] + 1e-4)).clamp(max=1e4))
