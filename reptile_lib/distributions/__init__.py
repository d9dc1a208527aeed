"""The task distributions of the book."""
