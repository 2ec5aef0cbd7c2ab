"""The laboratory: training, rendered scenes, benchmarks, comparison with public code. No run imports it."""
