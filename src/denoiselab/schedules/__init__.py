"""Noise schedules alpha(t) and sigma(t): the contract in schedule.py, one family per file."""

from denoiselab.schedules.flow import Flow
from denoiselab.schedules.learned import Learned
from denoiselab.schedules.schedule import Level, Schedule, as_time, like, noise_label
from denoiselab.schedules.sub_vp import SubVP
from denoiselab.schedules.tables import Table, constant, cosine, jsd, linear, scaled_linear, sqrt_linear
from denoiselab.schedules.variance_exploding import EDM, VE, VarianceExploding, VESqrt
from denoiselab.schedules.variance_preserving import Cosine, Linear, Modifiers, Sigmoid, VariancePreserving

__all__ = [
    "EDM",
    "VE",
    "Cosine",
    "Flow",
    "Learned",
    "Level",
    "Linear",
    "Modifiers",
    "Schedule",
    "Sigmoid",
    "SubVP",
    "Table",
    "VESqrt",
    "VarianceExploding",
    "VariancePreserving",
    "as_time",
    "constant",
    "cosine",
    "jsd",
    "like",
    "linear",
    "noise_label",
    "scaled_linear",
    "sqrt_linear",
]
