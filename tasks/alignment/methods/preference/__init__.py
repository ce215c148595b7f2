"""Methods that treat the true answer as dispreferred."""
