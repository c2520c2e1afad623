"""The embedded model, which ships with the package: its networks and the world of its scenes."""

WINDOW = 1.3  # side of the window that it edits in, in longer sides of the mask's bounding box: large things are drawn better
