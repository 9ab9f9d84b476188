"""Few-step methods, one file or folder each; they import piflow_bench.api and nothing else of it."""
