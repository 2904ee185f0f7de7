"""Callbacks: images, metrics, checkpoints, progress."""

from denoiselab.training.callbacks.checkpoint import Checkpoint
from denoiselab.training.callbacks.effective_weight import EffectiveWeight
from denoiselab.training.callbacks.evaluate import Evaluate
from denoiselab.training.callbacks.few_steps import FewSteps
from denoiselab.training.callbacks.finite import Finite
from denoiselab.training.callbacks.likelihood import BitsPerDim
from denoiselab.training.callbacks.loss_by_log_snr import LossByLogSNR
from denoiselab.training.callbacks.loss_curve import LossCurve
from denoiselab.training.callbacks.points import PointProcess, PointScatter
from denoiselab.training.callbacks.progress import Pace, Progress
from denoiselab.training.callbacks.ranks import RankSafety
from denoiselab.training.callbacks.reconstructions import Reconstructions
from denoiselab.training.callbacks.samples import DenoisingStrip, SampleGrid
from denoiselab.training.callbacks.snapshots import Snapshots
from denoiselab.training.callbacks.stop import Stop

__all__ = [
    "BitsPerDim",
    "Checkpoint",
    "DenoisingStrip",
    "EffectiveWeight",
    "Evaluate",
    "FewSteps",
    "Finite",
    "LossByLogSNR",
    "LossCurve",
    "Pace",
    "PointProcess",
    "PointScatter",
    "Progress",
    "RankSafety",
    "Reconstructions",
    "SampleGrid",
    "Snapshots",
    "Stop",
]
