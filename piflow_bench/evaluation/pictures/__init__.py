"""Sets of images, whatever they are kept in, as batches of uint8 RGB."""
