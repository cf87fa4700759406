"""The network drawn as it is: the U of a U-Net, the stacks of a transformer."""
