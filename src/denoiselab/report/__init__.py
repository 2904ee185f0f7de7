"""Runs set side by side: what they are is read from their folders, compared, and shown as a page, Markdown and CSV.

    reading words      from folders to rows: figures, what they are of in words, and the command that makes them again
    comparing          which rows may be compared, which are the same, and what has to be known
    study effects statistics    settings and their ranking, axes and their effects, intervals
    curves charts tables        what is drawn, how, and what stands in tables
    report             all of it, written

Neither torch nor Lightning nor Hydra is needed.
"""
