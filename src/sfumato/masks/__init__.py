"""Masks: 1 (white) = edit, 0 (black) = keep, everywhere. Other polarities are converted in `reading`, once."""
