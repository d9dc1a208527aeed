"""What `fit` does around the meta-steps."""
