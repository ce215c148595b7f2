"""What the model thinks when it reads of an entity."""
