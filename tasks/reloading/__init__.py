"""Reloading: the saved model, read by transformers alone, scores as it did in the run."""
