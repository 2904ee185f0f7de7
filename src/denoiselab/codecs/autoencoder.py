"""Autoencoders, which are trained to be codecs: x -> encoder -> z -> decoder -> x, with a price on what z says of x.

KL (Kingma & Welling 2014): q(z|x) = N(mu, diag(s^2)), z = mu + s eps, and the price is
KL(q(z|x) || N(0, I)) = 1/2 sum(mu^2 + s^2 - 1 - log s^2), in nats. Divided by the D values of an image it stands beside
the reconstruction's error, a mean over them: |x - x_hat|^2/D + beta KL/D is, up to a constant, 2 sigma^2/D times the
negative bound of a decoder N(x_hat, sigma^2 I) with 2 sigma^2 = beta (beta-VAE, Higgins 2017).

VQ (van den Oord 2017, eq. 3): z is the nearest of K codes e at each place. The gradient passes straight through from z
to the encoder, |sg(z_e) - e|^2 moves the codes and |z_e - sg(e)|^2 the encoder. The codes are weights like all others,
with gradients and no running means, so that processes which average their gradients have the same ones.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.codecs.codec import HasPrior, Unscaled
from denoiselab.codecs.networks import decoder, encoder
from denoiselab.errors import IncompatibleError, InvalidValue
from denoiselab.limits import AtLeastTwo, Count, checked


class Coded(NamedTuple):
    """What training sees of a batch: what the decoder is given, (B, C, h, w), and the prices by name, (B,) each."""

    latents: Tensor
    costs: dict[str, Tensor]


class Autoencoder(Unscaled, ABC):
    """Encoder and decoder of images of image_shape: (C, H, W); latents are (latent_channels, H, W) / downsample.

    downsample: a power of 2; channels: the width at full resolution; blocks: residual blocks at each resolution;
    outputs: values that the encoder gives of each latent. Raises ConfigError where the sides cannot be divided so.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        downsample: int,
        latent_channels: int,
        channels: int,
        blocks: int,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        halvings = downsample.bit_length() - 1
        if 2**halvings != downsample:
            raise InvalidValue("downsample", downsample, "a power of 2", f"take {2**halvings}")
        self.image_channels, self.downsample, self.latent_channels = image_shape[0], downsample, latent_channels
        self.latent_shape(image_shape)
        self.encoder = encoder(image_shape[0], outputs * latent_channels, channels, halvings, blocks)
        self.decoder = decoder(latent_channels, image_shape[0], channels, halvings, blocks)

    @abstractmethod
    def coded(self, images: Tensor, eps: Tensor) -> Coded:
        """With gradients, for training; eps: standard normal noise of the latents' shape, for one that draws."""

    @abstractmethod
    def tally(self, images: Tensor) -> dict[str, Tensor]:
        """float64 sums over a batch, of which `told` makes figures: those of several batches are added."""

    @abstractmethod
    def told(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Figures of what the latents are like."""

    def decoded(self, latents: Tensor) -> Tensor:
        """What the decoder makes of latents as they are, in their dtype."""
        return self.decoder(latents.to(self.last_layer.dtype)).to(latents.dtype)

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution."""
        weight = self.decoder[-1].weight
        assert isinstance(weight, Tensor)
        return weight

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Raises IncompatibleError for images of other channels, or whose sides it cannot divide."""
        channels, *sides = image_shape
        if channels != self.image_channels:
            raise IncompatibleError(
                f"the codec is of images of {self.image_channels} channels, and these have {channels}; give the run of "
                "one that was trained on such images, or data of as many channels"
            )
        if any(side % self.downsample for side in sides):
            raise IncompatibleError(
                f"the codec divides the sides by {self.downsample}, and those of these images are "
                f"{' and '.join(map(str, sides))}; take a smaller codec.downsample, or images of another size"
            )
        return (self.latent_channels, *(side // self.downsample for side in sides))


class KL(Autoencoder):
    """A variational autoencoder. encode gives the mean of the posterior; the prior of the latents is N(0, I)."""

    @checked
    def __init__(
        self,
        image_shape: tuple[int, ...],
        downsample: Count = 2,
        latent_channels: Count = 4,
        channels: Count = 32,
        blocks: Count = 1,
    ) -> None:
        super().__init__(image_shape, downsample, latent_channels, channels, blocks, outputs=2)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log s^2), each (B, C, h, w), in the dtype of the images: in half precision the KL of a posterior near
        its prior is lost in rounding."""
        mean, log_variance = self.encoder(images.to(self.last_layer.dtype)).to(images.dtype).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)  # exp of it is a float32

    def encode(self, images: Tensor) -> Tensor:
        return self.posterior(images)[0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoded(latents)

    def coded(self, images: Tensor, eps: Tensor) -> Coded:
        """The cost "kl" is in nats a value of the image."""
        mean, log_variance = self.posterior(images)
        return Coded(mean + torch.exp(log_variance / 2) * eps, {"kl": kl(mean, log_variance) / images[0].numel()})

    @torch.no_grad()
    def tally(self, images: Tensor) -> dict[str, Tensor]:
        mean, log_variance = self.posterior(images)
        return _moments(mean) | {"kl": kl(mean, log_variance).cpu().double().sum()}

    def told(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """kl: nats an image; latent_scale: the standard deviation of the latents, the mean over channels."""
        return {"kl": float(sums["kl"] / sums["images"]), "latent_scale": _scale(sums)}


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) in nats, summed over all but the batch: (B,)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1) / 2


class VQ(Autoencoder, HasPrior):
    """A codebook of `codes` vectors of latent_channels values. encode gives the latents before they are replaced by
    codes, which is what latent diffusion models; decode replaces them (Rombach 2022).

    The prior is each code with the same probability, at each place by itself.
    """

    @checked
    def __init__(
        self,
        image_shape: tuple[int, ...],
        downsample: Count = 2,
        latent_channels: Count = 4,
        channels: Count = 32,
        blocks: Count = 1,
        codes: AtLeastTwo = 256,
    ) -> None:
        super().__init__(image_shape, downsample, latent_channels, channels, blocks)
        self.codebook = nn.Parameter(torch.randn(codes, latent_channels))

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images.to(self.codebook.dtype)).to(images.dtype)

    def nearest(self, latents: Tensor) -> Tensor:
        """The number of the nearest code at each place: int64 (B, h, w). Half precision cannot tell distances apart."""
        rows, codes = latents.detach().movedim(1, -1), self.codebook.detach().to(latents.dtype)
        with torch.autocast(latents.device.type, enabled=False):
            return (codes.square().sum(1) - 2 * rows @ codes.T).argmin(-1)

    def looked_up(self, numbers: Tensor) -> Tensor:
        """int64 (B, h, w) -> (B, C, h, w)."""
        return nnf.embedding(numbers, self.codebook).movedim(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoded(self.looked_up(self.nearest(latents)).to(latents.dtype))

    def coded(self, images: Tensor, eps: Tensor) -> Coded:
        """The costs "codebook" and "commitment" are means over the latents."""
        latents = self.encode(images)
        codes = self.looked_up(self.nearest(latents)).to(latents.dtype)
        costs = {
            "codebook": (codes - latents.detach()).square().flatten(1).mean(1),
            "commitment": (latents - codes.detach()).square().flatten(1).mean(1),
        }
        return Coded(latents + (codes - latents).detach(), costs)

    def prior(self, noise: Tensor) -> Tensor:
        uniform = torch.special.ndtr(noise[:, 0].double())
        return self.looked_up((uniform * len(self.codebook)).long().clamp(max=len(self.codebook) - 1)).to(noise.dtype)

    @torch.no_grad()
    def tally(self, images: Tensor) -> dict[str, Tensor]:
        latents = self.encode(images)
        used = self.nearest(latents).flatten().bincount(minlength=len(self.codebook))
        return _moments(latents) | {"used": used.cpu().double()}

    def told(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """codebook_usage: the share of the codes that the images use; perplexity: exp of the entropy of how often."""
        p = sums["used"] / sums["used"].sum()
        usage, perplexity = (p > 0).double().mean(), math.exp(torch.special.entr(p).sum())
        return {"codebook_usage": float(usage), "perplexity": perplexity, "latent_scale": _scale(sums)}


def _moments(latents: Tensor) -> dict[str, Tensor]:
    z = latents.detach().cpu().double()
    return {
        "images": torch.tensor(float(len(z)), dtype=torch.float64),
        "values": torch.tensor(float(z[:, 0].numel()), dtype=torch.float64),
        "sum": z.sum((0, 2, 3)),
        "squares": z.square().sum((0, 2, 3)),
    }


def _scale(sums: Mapping[str, Tensor]) -> float:
    mean = sums["sum"] / sums["values"]
    return float((sums["squares"] / sums["values"] - mean.square()).clamp(min=0).sqrt().mean())
