"""Classifiers of images: opening them, predicting, and measuring accuracy."""
