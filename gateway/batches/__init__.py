"""Batches: from files of lines to tasks. Each dialect tells of them in its own words."""
