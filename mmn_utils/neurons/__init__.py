"""Neurons: how they are named, found, scored, read and located."""
