"""How a model is trained: precision, optimizer, callbacks, checkpoints."""
