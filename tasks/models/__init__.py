"""What any stage may do with a network."""
