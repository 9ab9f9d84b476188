"""What a metric is, and the families of metrics that come with the project."""
