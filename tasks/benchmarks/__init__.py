"""How fast the parts of the chain run here, beside what is used otherwise: the same results, in one process, in turn."""
