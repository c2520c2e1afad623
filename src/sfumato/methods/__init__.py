"""Editing methods, one file per published method."""
