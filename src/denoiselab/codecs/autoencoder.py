"""Trainable autoencoders: x -> encoder -> z -> decoder -> x, with a regulariser on z.

KL (Kingma & Welling 2014): q(z|x) = N(mu, diag(s^2)), z = mu + s eps, with the regulariser
KL(q(z|x) || N(0, I)) = 1/2 sum(mu^2 + s^2 - 1 - log s^2), in nats. Both it and the squared error are divided by the
number D of values in an image: |x - x_hat|^2/D + beta KL/D is, up to a constant, 2 sigma^2/D times the negative ELBO of
a decoder N(x_hat, sigma^2 I) with 2 sigma^2 = beta (beta-VAE, Higgins 2017).

VQ (van den Oord 2017, eq. 3): z is the nearest of K codes e at each position, with a straight-through gradient to the
encoder; |sg(z_e) - e|^2 trains the codes and |z_e - sg(e)|^2 the encoder. The codes are ordinary parameters, without
running means, so that they agree between data-parallel processes.
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
    """An encoded training batch: the decoder's input (B, C, h, w) and the regularisers by name, each (B,)."""

    latents: Tensor
    costs: dict[str, Tensor]


class Autoencoder(Unscaled, ABC):
    """Base of autoencoders of images (C, H, W); latents are (latent_channels, H/downsample, W/downsample).

    downsample: a power of 2; channels: width at full resolution; blocks: residual blocks per resolution; outputs:
    encoder outputs per latent value. Raises ConfigError if downsample does not divide the sides.
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
        """Encode with gradients, for training. eps: standard normal noise of the latents' shape, for sampling z."""

    @abstractmethod
    def tally(self, images: Tensor) -> dict[str, Tensor]:
        """float64 sums over a batch, to be added over batches and passed to `told`."""

    @abstractmethod
    def told(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics of the latents, from the sums of `tally`."""

    def decoded(self, latents: Tensor) -> Tensor:
        """Decode unquantised latents, in their dtype."""
        return self.decoder(latents.to(self.last_layer.dtype)).to(latents.dtype)

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution."""
        weight = self.decoder[-1].weight
        assert isinstance(weight, Tensor)
        return weight

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Raises IncompatibleError for other channels, or sides that are not multiples of downsample."""
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
    """Variational autoencoder. encode returns the posterior mean; the prior is N(0, I)."""

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
        """(mu, log s^2), each (B, C, h, w), in the images' dtype: half precision rounds away a small KL."""
        mean, log_variance = self.encoder(images.to(self.last_layer.dtype)).to(images.dtype).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)  # keeps exp finite in float32

    def encode(self, images: Tensor) -> Tensor:
        return self.posterior(images)[0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoded(latents)

    def coded(self, images: Tensor, eps: Tensor) -> Coded:
        """The cost "kl" is in nats per value of the image."""
        mean, log_variance = self.posterior(images)
        return Coded(mean + torch.exp(log_variance / 2) * eps, {"kl": kl(mean, log_variance) / images[0].numel()})

    @torch.no_grad()
    def tally(self, images: Tensor) -> dict[str, Tensor]:
        mean, log_variance = self.posterior(images)
        return _moments(mean) | {"kl": kl(mean, log_variance).cpu().double().sum()}

    def told(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """kl: nats per image; latent_scale: standard deviation of the latents, averaged over channels."""
        return {"kl": float(sums["kl"] / sums["images"]), "latent_scale": _scale(sums)}


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) in nats, summed over all but the batch: (B,)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1) / 2


class VQ(Autoencoder, HasPrior):
    """Autoencoder with a codebook of `codes` vectors of latent_channels values.

    encode returns the latents before quantisation, which latent diffusion models; decode quantises them (Rombach 2022).
    The prior is uniform over codes, independently at each position.
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
        """Index of the nearest code at each position: int64 (B, h, w). Half precision cannot separate the distances."""
        rows, codes = latents.detach().movedim(1, -1), self.codebook.detach().to(latents.dtype)
        with torch.autocast(latents.device.type, enabled=False):
            return (codes.square().sum(1) - 2 * rows @ codes.T).argmin(-1)

    def looked_up(self, numbers: Tensor) -> Tensor:
        """Look up codes: int64 (B, h, w) -> (B, C, h, w)."""
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
        """codebook_usage: fraction of the codes in use; perplexity: exp of the entropy of their frequencies."""
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
