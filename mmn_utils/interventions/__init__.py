"""Interventions: what a model does without some neurons, or with other ones."""
