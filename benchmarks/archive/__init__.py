"""Images per second of ``kdx score``, by one and two workers."""
