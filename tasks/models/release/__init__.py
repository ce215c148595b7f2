"""A saved model in other hands: read by plain transformers, pushed to a hub."""
