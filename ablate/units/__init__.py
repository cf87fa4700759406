"""Units of networks: what each responds to, what its best input looks like, and what it does."""
