"""Running: a notebook, headless, on a preset."""
