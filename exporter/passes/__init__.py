"""Graph changes, one a file: model in, (model, changed) out."""
