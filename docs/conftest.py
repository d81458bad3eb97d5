"""Tutorials are run by their own tests, not as modules with examples."""

collect_ignore_glob = ["tutorials/*"]
