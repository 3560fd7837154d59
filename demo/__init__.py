"""The demo model: its data, its training and its evaluation."""
