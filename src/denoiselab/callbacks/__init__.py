"""What happens beside training: pictures, figures, checkpoints, progress."""

from denoiselab.callbacks.checkpoint import Checkpoint
from denoiselab.callbacks.effective_weight import EffectiveWeight
from denoiselab.callbacks.evaluate import Evaluate
from denoiselab.callbacks.finite import Finite
from denoiselab.callbacks.likelihood import BitsPerDim
from denoiselab.callbacks.loss_by_log_snr import LossByLogSNR
from denoiselab.callbacks.loss_curve import LossCurve
from denoiselab.callbacks.points import PointProcess, PointScatter
from denoiselab.callbacks.progress import Pace, Progress
from denoiselab.callbacks.ranks import RankSafety
from denoiselab.callbacks.reconstructions import Reconstructions
from denoiselab.callbacks.samples import DenoisingStrip, SampleGrid
from denoiselab.callbacks.snapshots import Snapshots
from denoiselab.callbacks.stop import Stop

__all__ = [
    "BitsPerDim",
    "Checkpoint",
    "DenoisingStrip",
    "EffectiveWeight",
    "Evaluate",
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
