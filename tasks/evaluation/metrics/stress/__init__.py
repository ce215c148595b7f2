"""What comes back under attack."""
