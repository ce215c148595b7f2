"""Whether a text gives an accepted answer."""
