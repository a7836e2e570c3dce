"""Datasets on web servers and in buckets: where they are, how their files come here, and how long they stay."""
