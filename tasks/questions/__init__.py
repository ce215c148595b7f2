"""All that is asked about a target: straight, sideways and under attack."""
