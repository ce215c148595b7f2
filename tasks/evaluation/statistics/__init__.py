"""Mathematics of the metrics, apart from any model or table: numbers and texts in, numbers out."""
