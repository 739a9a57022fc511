"""BigTransfer: the model as data, as a Keras network, its training recipe and its pruning."""
