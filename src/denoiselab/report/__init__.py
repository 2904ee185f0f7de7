"""Comparison reports: runs are read from their folders, compared, and written as HTML, Markdown and CSV.

    reading words               run folders to rows: metrics, description and command
    comparing                   which rows are comparable or duplicates, and warnings
    study effects statistics    settings and their ranking, axes and their effects, intervals
    curves charts tables        charts, their drawing, and tables
    report                      the report and its files

Needs neither torch nor Lightning nor Hydra.
"""
