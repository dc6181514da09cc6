"""The page, the model card, the plots and the overview of a run."""
