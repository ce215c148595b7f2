"""What a model will need, before any weight of it is read."""
