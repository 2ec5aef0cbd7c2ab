"""Versions of the map's files; imports nothing, so that ``recon info`` starts at once."""

MAP_VERSION = 3
VERSIONS_READ = (1, 2, 3)  # 1 is compressed by zlib; 2 has plain depth and colour
