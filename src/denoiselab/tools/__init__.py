"""Programs for those who work on denoiselab itself; nothing of the package imports them."""
