"""Measure a trained run: python evaluate.py run=<folder> n=1000 sampler=ddim sampler.steps=20."""

from denoiselab.cli import main

if __name__ == "__main__":
    main("evaluate")
