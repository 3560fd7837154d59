"""The model running inside this process: MAX's pipeline and scheduler in a thread.

Nothing here is imported by ``serving``, except the progress of a compilation.
"""
