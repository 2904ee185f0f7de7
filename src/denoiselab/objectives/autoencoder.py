r"""The loss of an autoencoder: reconstruction error, latent costs, perceptual and adversarial terms.

loss = $|x - \hat x|$ (in `norm`, averaged over the image's values) + kl KL/D (KL) or the codebook and commitment terms
(VQ) + perceptual times the distance in a network's features + the adversarial loss.
"""

import torch
from torch import Tensor, nn

from denoiselab.codecs import Autoencoder, Coded
from denoiselab.data.source import psnr
from denoiselab.limits import NonNegative, checked
from denoiselab.norms import Norm
from denoiselab.objectives.adversarial import Adversarial
from denoiselab.objectives.perceptual import Layers, Perceptual


class Autoencoding(nn.Module):
    """Losses (B,) of images: (B, C, H, W) in [-1, 1].

    kl, codebook, commitment: weights of the costs of these names; perceptual: weight of the distance in the features of
    `layers`; adversarial: left out where its weight is 0.
    """

    names = ("loss", "reconstruction", "psnr")

    @checked
    def __init__(
        self,
        norm: Norm,
        kl: NonNegative = 1e-3,
        codebook: NonNegative = 1.0,
        commitment: NonNegative = 0.25,
        perceptual: NonNegative = 0.0,
        adversarial: Adversarial | None = None,
        layers: Layers | None = None,
    ) -> None:
        super().__init__()
        self.norm, self.weights = norm, {"kl": kl, "codebook": codebook, "commitment": commitment}
        self.perceptual, self.seen = perceptual, Perceptual(layers) if perceptual and layers else None
        self.adversarial = adversarial if adversarial is not None and adversarial.weight else None

    def own(self, codec: Autoencoder, images: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (x_hat, the loss without its adversarial part: (B,), the reconstruction error: (B,))."""
        coded: Coded = codec.coded(images, eps)
        made = codec.decoded(coded.latents)
        error = self.norm(made - images, torch.ones(len(images), dtype=torch.float64)).flatten(1).mean(1)
        loss = error + sum(self.weights[name] * cost for name, cost in coded.costs.items())
        if self.seen is not None:
            loss = loss + self.perceptual * self.seen(images, made)
        return made, loss, error

    def forward(self, codec: Autoencoder, images: Tensor, eps: Tensor, step: int) -> Tensor:
        """Returns losses after `step` optimizer steps; eps: standard normal noise of the latents' shape."""
        made, loss, _ = self.own(codec, images, eps)
        if self.adversarial is None:
            return loss
        return loss + self.adversarial(images, made, loss, codec.last_layer, step)

    def figures(self, codec: Autoencoder, images: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """Returns (B,) each: "loss" but its adversarial part, "reconstruction", "psnr" of decode(encode(x)) in dB."""
        _, loss, error = self.own(codec, images, eps)
        return {"loss": loss, "reconstruction": error, "psnr": psnr(codec.decode(codec.encode(images)), images)}
