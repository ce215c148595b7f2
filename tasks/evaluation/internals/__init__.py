"""Mathematics of what the states tell: depth of an answer, probes, calibration among unknown entities, latents."""
