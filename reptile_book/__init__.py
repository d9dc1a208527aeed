"""What makes the book: recorded rows, tables, plots, films, notebooks."""
