"""Which units answer to which concepts."""
