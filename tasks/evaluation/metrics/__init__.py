"""One file per metric: pure functions of stored observations."""
