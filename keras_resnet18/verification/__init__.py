"""An exported file beside its model: comparison, diagnosis, report."""
