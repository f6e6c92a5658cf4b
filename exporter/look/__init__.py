"""What a graph looks like: Netron in a browser, and the autograd graph by torchviz."""
