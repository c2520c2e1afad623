"""Metrics of edits: functions of pictures and masks; models are arguments."""
