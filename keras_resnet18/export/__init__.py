"""From a `keras.Model` to what ships, each file proved before it takes its name."""

# The names that every exported file gives its input and its output.
INPUT, OUTPUT = "image", "probabilities"
