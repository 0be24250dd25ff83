"""Raw text to a corpus: everything that happens before training, without jax."""
