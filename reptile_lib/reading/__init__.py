"""How files become arrays and examples: downloads, archives, tables, pictures."""
