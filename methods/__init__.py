"""Few-step methods, one file or folder each; of the harness they import piflow_bench.api alone."""
