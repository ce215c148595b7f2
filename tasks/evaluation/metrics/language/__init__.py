"""Whether what it writes is still language."""
