"""The world of the embedded model: tabletop scenes, their renderer, captions and masks."""
