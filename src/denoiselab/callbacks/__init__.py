"""What happens beside training: pictures, figures, checkpoints, progress."""

from denoiselab.callbacks.checkpoint import Checkpoint
from denoiselab.callbacks.evaluate import Evaluate
from denoiselab.callbacks.loss_curve import LossCurve
from denoiselab.callbacks.progress import Pace, Progress
from denoiselab.callbacks.samples import DenoisingStrip, SampleGrid

__all__ = ["Checkpoint", "DenoisingStrip", "Evaluate", "LossCurve", "Pace", "Progress", "SampleGrid"]
