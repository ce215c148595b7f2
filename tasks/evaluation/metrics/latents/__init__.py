"""Its activations as an autoencoder's latents."""
