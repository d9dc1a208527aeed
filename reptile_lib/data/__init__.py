"""Data sets, and the readers of files behind them."""
