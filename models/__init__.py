"""The models that Twinport trains itself; knows none of the other packages."""
