"""Measurements of place recognition and checks against public code; the product does not import it."""
