"""TensorFlow Lite: `conversion` makes the files, `runtime` runs and inspects them with LiteRT alone."""
