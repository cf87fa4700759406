"""How the bundled model is trained and measured.

Run as modules: `python -m ablate.training.train`, `python -m ablate.training.quality`."""
