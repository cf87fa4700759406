"""Which units respond to which concepts."""
