"""denoiselab: denoising diffusion from small, interchangeable parts, one for each design choice.

Names are imported on first use, so that `import denoiselab` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denoiselab.codecs import Codec
    from denoiselab.conditioning import Cond, Conditioner
    from denoiselab.denoiser import DenoiseFn, Denoiser, Prediction
    from denoiselab.guidance import Guidance
    from denoiselab.objectives import Objective
    from denoiselab.parameterizations import Parameterization
    from denoiselab.runs.library import load
    from denoiselab.samplers import Sampler
    from denoiselab.schedules import Level, Schedule
    from denoiselab.spacings import Spacing
    from denoiselab.time_sampling import TimeSampler
    from denoiselab.weightings import Weighting

__version__ = "0.1.0"

_HOMES = {
    "Codec": "codecs",
    "Cond": "conditioning",
    "Conditioner": "conditioning",
    "DenoiseFn": "denoiser",
    "Denoiser": "denoiser",
    "Guidance": "guidance",
    "Level": "schedules",
    "Objective": "objectives",
    "Parameterization": "parameterizations",
    "Prediction": "denoiser",
    "Sampler": "samplers",
    "Schedule": "schedules",
    "Spacing": "spacings",
    "TimeSampler": "time_sampling",
    "Weighting": "weightings",
    "load": "runs.library",
}

__all__ = [
    "Codec",
    "Cond",
    "Conditioner",
    "DenoiseFn",
    "Denoiser",
    "Guidance",
    "Level",
    "Objective",
    "Parameterization",
    "Prediction",
    "Sampler",
    "Schedule",
    "Spacing",
    "TimeSampler",
    "Weighting",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"denoiselab.{_HOMES[name]}"), name)
