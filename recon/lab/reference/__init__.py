"""Comparison with stored outputs of the public code.

A folder holds suites. A suite holds ``weights.safetensors`` and runs, and a run ``config.json``, ``inputs.safetensors``
and ``outputs.safetensors``; the suites ``geometry`` and ``preprocess`` have layouts of their own. For each output the
config states how far the public code's float32 is from its own float64, which is the unit of the tolerance.
"""
