"""Methods that lower the likelihood of the answer."""
