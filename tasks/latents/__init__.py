"""Which latents carry knownness."""
