"""Metres for a map: known lengths, known camera positions, GPS and tags, and the similarity that agrees with them."""
