"""How the model is made to forget."""
