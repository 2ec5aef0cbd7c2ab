"""The base of every package: types, similarities, cameras, errors, events and the machine. Imports no other package."""
