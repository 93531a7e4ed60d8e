"""The browser: an atlas of every neuron of a system, and questions to it."""
