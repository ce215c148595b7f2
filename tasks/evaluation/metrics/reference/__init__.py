"""How far it is from the gold twin and from where it started."""
