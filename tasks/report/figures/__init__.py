"""The figures of the report: one look, one file for what belongs together."""
