"""What the command line does beside running flows: list, look after, measure, print."""
