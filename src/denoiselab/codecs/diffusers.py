"""AutoencoderKL of diffusers, from a folder written by save_pretrained. Needs the extra [diffusers].

The weights stay in that folder and are identified by their sha256, so that a model's latents are decoded only by the
autoencoder that it was trained with.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from torch import Tensor

from denoiselab.codecs.codec import Unscaled
from denoiselab.codecs.latents import Latents
from denoiselab.errors import IncompatibleError, RunError


def diffusers(folder: str, image_shape: Sequence[int], sha256: str | None = None, **origin: Any) -> Latents:
    """Scaled latents of a DiffusersVAE, whose RunError and IncompatibleError it raises."""
    return Latents(DiffusersVAE(folder, image_shape, sha256), **origin)


@final
class DiffusersVAE(Unscaled):
    """A pretrained AutoencoderKL. encode returns the posterior mean.

    Grey images are repeated over the channels and decoded to the channel mean. image_shape: (C, H, W); sha256: the
    expected hash of the weights, or None. Raises RunError for missing or other weights, IncompatibleError for images
    that it cannot encode.
    """

    def __init__(self, folder: str, image_shape: Sequence[int], sha256: str | None = None) -> None:
        super().__init__()
        self.sha256 = weights_of(folder)
        if sha256 not in (None, self.sha256):
            raise RunError(
                f"codec.folder={folder} has other weights than this run was trained with (sha256 {self.sha256[:16]}, "
                f"and they were {sha256[:16] if sha256 else ''}); give the folder of the same"
            )
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise RunError("codec=diffusers needs diffusers; pip install 'denoiselab[diffusers]'") from error
        try:
            vae = AutoencoderKL.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
        except Exception as error:
            said = " ".join(str(error).split())[:120]
            raise RunError(f"codec.folder={folder} is no AutoencoderKL of diffusers ({said})") from error
        self._outside = [vae.eval().requires_grad_(False)]  # in a list, so that checkpoints and exports exclude it
        self.image_channels, self.latent_channels = vae.config.in_channels, vae.config.latent_channels
        self.downsample = 2 ** (len(vae.config.block_out_channels) - 1)
        self.grey = image_shape[0] == 1
        self.latent_shape(tuple(image_shape))

    def encode(self, images: Tensor) -> Tensor:
        vae = self._on(images)
        colour = images.expand(-1, self.image_channels, -1, -1)
        return vae.encode(colour.to(vae.dtype)).latent_dist.mode().to(images.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self._on(latents)
        images = vae.decode(latents.to(vae.dtype)).sample.to(latents.dtype)
        return images.mean(1, keepdim=True) if self.grey else images

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Raises IncompatibleError for other channels, or sides that are not multiples of downsample."""
        channels, *sides = image_shape
        if channels not in (1, self.image_channels):
            raise IncompatibleError(
                f"codec.folder has an autoencoder of images of {self.image_channels} channels, and these have "
                f"{channels}; give one of as many, or take data.channels={self.image_channels}"
            )
        if any(side % self.downsample for side in sides):
            raise IncompatibleError(
                f"codec.folder has an autoencoder that divides the sides by {self.downsample}, and those of these "
                f"images are {' and '.join(map(str, sides))}; give images of another size"
            )
        return (self.latent_channels, *(side // self.downsample for side in sides))

    def _on(self, x: Tensor) -> Any:
        return self._outside[0].to(x.device)


def weights_of(folder: str) -> str:
    """sha256 (64 hex digits) of the configuration and weights in a folder. Raises RunError if they are missing."""
    paths = sorted(path for pattern in ("*.safetensors", "*.bin") for path in Path(folder).glob(pattern))
    config = Path(folder) / "config.json"
    if not config.is_file() or not paths:
        raise RunError(
            f"codec.folder={folder} is no folder of an AutoencoderKL, with config.json and weights; give one that "
            "diffusers' save_pretrained has written"
        )
    digest = hashlib.sha256()
    for path in (config, *paths):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
