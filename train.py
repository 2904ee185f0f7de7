"""Train a diffusion model: python train.py schedule=linear sampler=heun (and python train.py --help)."""

from denoiselab.cli import main

if __name__ == "__main__":
    main("train")
