"""The papers' figures, one function each: data in, a figure out."""
