"""Loading of images and their division into tiles."""
