"""One self-contained page about a version: its graph, its proof, its answers, in pictures."""
