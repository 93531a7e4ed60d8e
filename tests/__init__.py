"""The tests, a package so that they can share their builders of tiny models."""
