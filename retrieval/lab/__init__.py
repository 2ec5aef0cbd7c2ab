"""Measurements of place recognition and checks against public code; nothing of the product imports it."""
