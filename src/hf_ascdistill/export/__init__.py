"""Classifiers as files for other runtimes: graphs, their metadata, quantisation, and a check of what was written."""
