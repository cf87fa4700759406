"""The one error of pictures."""

from ablate.messages import RequestError


class PictureError(RequestError, ValueError):
    """A picture that cannot be drawn; the message says why."""
