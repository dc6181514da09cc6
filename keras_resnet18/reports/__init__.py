"""The page, model card, plots and overview of a run."""
