"""The one error of pictures."""


class PictureError(ValueError):
    """A picture that cannot be drawn; the message says why."""
