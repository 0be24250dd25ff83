"""The encoder and its pretraining heads."""
