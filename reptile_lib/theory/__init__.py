"""What can be solved on paper: quadratic bowls, the expansion, linear maps."""
