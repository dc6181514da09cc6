"""What the product does, one file a verb, each callable from Python too."""
