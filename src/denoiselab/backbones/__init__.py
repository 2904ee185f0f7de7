"""Networks: backbone(x_t, t, cond) -> F of the shape of x_t."""

from denoiselab.backbones.dit import DiT
from denoiselab.backbones.mlp import MLP
from denoiselab.backbones.unet import UNet

__all__ = ["MLP", "DiT", "UNet"]
