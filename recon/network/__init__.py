"""The geometry transformer: images to poses, depth and points, in one pass or chunk by chunk.

VGGT (Wang et al. 2025, arXiv 2503.11651) with dense global attention, and FlashVGGT (arXiv 2512.01540) with attention
to a few descriptors per frame. Each file holds one idea. In reading order: ``config`` (shapes and attention rules),
``layers`` with ``attention`` and ``rotary``, ``vit``, ``descriptors`` with ``layout``, ``cache`` and ``eviction``,
``aggregator``, the heads, ``model``. ``frontend`` connects it to the pipeline, ``known_weights`` and ``checkpoints``
load the public files.
"""
