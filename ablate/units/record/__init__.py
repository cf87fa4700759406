"""Stimuli, layers and recorded activations."""
