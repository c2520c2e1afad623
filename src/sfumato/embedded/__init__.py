"""The embedded model, which ships with the package: its networks and the world of its scenes."""

WINDOW = 1.3  # side of the edited window, relative to the longer side of the mask's bounding box: large objects are drawn better
