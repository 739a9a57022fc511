"""BigTransfer as data and as Keras network."""
