"""Set runs side by side: python report.py run=outputs/study (a page, Markdown and CSV)."""

from denoiselab.cli import main

if __name__ == "__main__":
    main("report")
