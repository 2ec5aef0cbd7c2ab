"""The laboratory: training, rendered scenes, benchmarks, comparison with public code. No product code imports it."""
