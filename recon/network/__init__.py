"""The geometry transformer: images to poses, depth and points, in one pass or chunk by chunk.

VGGT (Wang et al. 2025, arXiv 2503.11651) with dense global attention, and FlashVGGT (arXiv 2512.01540) with attention
to a few descriptors per frame. One file per idea, in reading order: ``config`` (shapes and the choice of arithmetic),
``layers`` over ``attention`` and ``rotary``, ``vit``, ``descriptors`` over ``layout``, ``cache`` and ``eviction``,
``aggregator``, the heads, ``model``. ``frontend`` hands it to the pipeline, ``weights`` loads the public files.
"""
