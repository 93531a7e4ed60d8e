"""Measures: how alike texts and pictures are, and how sure a number is."""
