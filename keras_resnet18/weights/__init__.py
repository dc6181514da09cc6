"""Published weights, and checkpoints of other libraries."""
