"""A trained run in one file: python export.py run=<folder>."""

from denoiselab.cli import main

if __name__ == "__main__":
    main("export")
