"""Many sources, one command: each becomes a map of its own in a shared store, on as many machines as Ray has."""
