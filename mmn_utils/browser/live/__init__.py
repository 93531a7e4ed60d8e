"""The browser with a kernel: what needs the system, and the widget."""
