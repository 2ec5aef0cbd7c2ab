"""Comparison with stored outputs of the public code.

A folder holds suites. A suite holds ``weights.safetensors`` and runs; a run holds ``config.json``,
``inputs.safetensors`` and ``outputs.safetensors``. The suites ``geometry`` and ``preprocess`` have their own layouts.
For each output, the config states how far the public code's float32 is from its own float64; this is the unit of the
tolerance.
"""
