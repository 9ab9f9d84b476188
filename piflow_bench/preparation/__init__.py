"""Images to latents on disk, made once: their sources, their shards, and small stand-ins."""
