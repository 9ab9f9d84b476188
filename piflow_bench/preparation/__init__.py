"""What datasets are read from, made once: latents of images, shipped weights, stand-ins."""
