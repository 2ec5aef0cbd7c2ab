"""Versions of the map's files; imports nothing, so that ``recon info`` starts at once."""

LEDGER_VERSION = 4  # 1 to 3 were JSON files, see ``recon.store.legacy``
SUBMAP_VERSION = 3
SUBMAPS_READ = (1, 2, 3)  # 1 is compressed by zlib; 2 has plain depth and colour
