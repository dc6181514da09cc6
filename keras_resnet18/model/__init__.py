"""The network of the paper: blocks, pooling, the stage table, and its description."""
