"""Recipes: frozen descriptions of a training."""
