"""How fast a served model answers: a load generator and what is told of its result."""
