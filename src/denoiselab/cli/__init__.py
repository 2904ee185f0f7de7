"""The command line. Hydra composes, `checks` and `rules` refuse, and only then are torch and Lightning imported."""

from denoiselab.cli.entry import main

__all__ = ["main"]
