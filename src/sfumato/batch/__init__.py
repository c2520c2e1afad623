"""Batches: many edits from a folder or a manifest, resumable, on one machine or on Ray."""
