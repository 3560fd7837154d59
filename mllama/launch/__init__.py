"""Turns a user's options into the model's files, its devices and MAX's arguments."""
