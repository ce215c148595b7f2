"""What it answers when asked otherwise: around the corner, in other words, mixed, and under attack."""
