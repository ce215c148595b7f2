"""Methods that move the residual stream."""
