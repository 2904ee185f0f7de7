"""Pretrained feature extractors, whose metrics are comparable across data sets."""

from denoiselab.metrics.extractors.inception_v3 import Inception, inception
from denoiselab.metrics.extractors.transformers import CLIP, DINOv2, clip, dinov2

__all__ = ["CLIP", "DINOv2", "Inception", "clip", "dinov2", "inception"]
