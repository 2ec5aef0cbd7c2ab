"""What all else stands on: types, similarities, cameras, errors, events, and the machine. Imports nothing else."""
