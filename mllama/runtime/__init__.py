"""Changes to MAX's pipeline and scheduler while the model runs."""
