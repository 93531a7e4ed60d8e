"""The atlas: every neuron of a system on a run's pictures, in files, and the questions to it."""
