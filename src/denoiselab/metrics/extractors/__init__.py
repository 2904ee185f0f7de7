"""Networks that others have trained, to look through: their figures can be compared beyond one data set."""

from denoiselab.metrics.extractors.inception_v3 import Inception, inception
from denoiselab.metrics.extractors.transformers import CLIP, DINOv2, clip, dinov2

__all__ = ["CLIP", "DINOv2", "Inception", "clip", "dinov2", "inception"]
