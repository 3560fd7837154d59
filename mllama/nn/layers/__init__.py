"""Building blocks that the vision and the text network share."""
