"""Functions that add the custom ops to a graph, one module for each Mojo package."""
