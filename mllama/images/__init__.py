"""From an image to its tiles, and the bookkeeping of what the image pool holds."""
