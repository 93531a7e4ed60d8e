"""Concepts: whose neurons the nouns of captions are, where they look, how steady they stay."""
