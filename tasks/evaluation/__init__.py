"""What was forgotten, what was lost, what merely hides."""
