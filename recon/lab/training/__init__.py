"""Training of the compact network on rendered scenes with exact depth and poses; real sequences serve only for
evaluation.
"""
