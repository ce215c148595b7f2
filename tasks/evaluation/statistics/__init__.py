"""What several metrics share: mathematics of numbers and texts, and (`asked`, `beside_gold`) how a model's tables are read."""
