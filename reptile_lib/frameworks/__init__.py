"""The meta-step in three frameworks, each in a file to read: torch, JAX, Keras."""
