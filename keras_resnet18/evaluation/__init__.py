"""How good a classifier is, and how well that is known."""
