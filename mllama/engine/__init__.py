"""The model running inside this process: MAX's pipeline and scheduler in a thread."""
