"""Miniature: systems small enough to be made from nothing, and what they were made of."""
