"""Runs: settings, a folder, the command line, several seeds side by side."""
