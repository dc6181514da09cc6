"""Images in, named classes out: files opened, images predicted, accuracy measured."""
