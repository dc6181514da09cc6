"""Comparison of an exported file with its model: figures, limits, diagnosis, report."""
