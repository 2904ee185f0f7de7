"""The command line. Hydra composes, `checks` and `rules` validate, then torch and Lightning are imported."""

from denoiselab.cli.entry import main

__all__ = ["main"]
