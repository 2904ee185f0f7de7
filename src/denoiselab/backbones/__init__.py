"""Networks: backbone(x_t, t, cond) -> F, of the shape of x_t."""

from denoiselab.backbones.dit import DiT
from denoiselab.backbones.encoder import Encoder
from denoiselab.backbones.jit import JiT
from denoiselab.backbones.mlp import MLP, ReLUMLP
from denoiselab.backbones.unet import UNet

__all__ = ["MLP", "DiT", "Encoder", "JiT", "ReLUMLP", "UNet"]
