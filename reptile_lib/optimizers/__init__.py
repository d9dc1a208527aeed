"""Optimisers: inner ones, rules that stop them, and one that interpolates."""
