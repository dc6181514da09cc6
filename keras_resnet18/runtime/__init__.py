"""A run or an exported file, opened as one thing that answers."""
