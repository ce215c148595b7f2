"""Methods that work in the latent space of a sparse autoencoder, or beside it."""
