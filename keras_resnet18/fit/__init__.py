"""Training: precision, optimizer, callbacks, checkpoints."""
