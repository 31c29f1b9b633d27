"""The loop around the pipeline: prepare, build, train, report."""
