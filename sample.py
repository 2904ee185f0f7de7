"""Make images with a trained run: python sample.py run=<folder> n=64 sampler=ddim sampler.steps=20."""

from denoiselab.cli import main

if __name__ == "__main__":
    main("sample")
