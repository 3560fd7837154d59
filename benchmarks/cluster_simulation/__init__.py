"""A simulation of many replicas: where requests go, what is encoded, who waits."""
