"""From a `keras.Model` to what ships, each file proved before it takes its name."""
