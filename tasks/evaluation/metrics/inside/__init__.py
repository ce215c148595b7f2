"""What its activations tell."""
