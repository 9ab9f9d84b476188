"""Feature networks as plugins of the entry-point group ``piflow_bench.extractors``.

A plugin is a function ``load(weights, device) -> Extractor``.
"""
