"""The model as MAX's pipelines see it."""
