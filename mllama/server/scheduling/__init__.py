"""Which request goes next when not all can at once: fair queues of what waits."""
