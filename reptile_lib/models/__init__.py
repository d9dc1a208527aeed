"""The book's networks, as plain modules: one file each."""
