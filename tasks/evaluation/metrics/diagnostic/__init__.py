"""What helps to see, and decides nothing."""
