"""The browser as one file without a kernel."""
