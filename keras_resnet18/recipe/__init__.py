"""A frozen description of one training."""
