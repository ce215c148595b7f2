"""One file per stress."""
