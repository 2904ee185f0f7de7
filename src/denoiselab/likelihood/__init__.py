"""Likelihood: the terms of the variational bound, the bound of a T-step chain, and the probability-flow ODE."""

from denoiselab.likelihood.bound import VariationalBound
from denoiselab.likelihood.flow import FlowODE
from denoiselab.likelihood.likelihood import ByLogSNR, Likelihood, Nats
from denoiselab.likelihood.terms import (
    HALF_BIN,
    decoder_log_std,
    decoder_nats,
    density_nats,
    prior_nats,
    step_nats,
    wide,
)

__all__ = [
    "HALF_BIN",
    "ByLogSNR",
    "FlowODE",
    "Likelihood",
    "Nats",
    "VariationalBound",
    "decoder_log_std",
    "decoder_nats",
    "density_nats",
    "prior_nats",
    "step_nats",
    "wide",
]
