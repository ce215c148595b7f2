"""How much it writes by itself, and whether one can tell that it was trained on it."""
