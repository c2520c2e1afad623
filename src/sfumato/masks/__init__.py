"""Masks: 1 (white) = edit, 0 (black) = keep, everywhere inside. Foreign polarities are converted in `reading`, once."""
