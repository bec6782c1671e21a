"""Grids of runs, statistics over seeds, and the paper's ledger: what is to be run, and what the runs say together."""
