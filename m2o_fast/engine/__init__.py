"""Configuration, training loop, runs and checkpoints. Knows the Translator interface, never a concrete system."""
