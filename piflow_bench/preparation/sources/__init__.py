"""Where training images come from: class folders, tar files, or Hugging Face parquet shards."""
