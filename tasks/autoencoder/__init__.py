"""Train sparse autoencoders on stored activations."""
