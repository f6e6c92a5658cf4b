"""From a torch module to a proved artifact in the model repository."""
