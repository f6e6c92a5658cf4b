"""Two artifacts side by side: nodes, shapes, weights, numbers, speed."""
