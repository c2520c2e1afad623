"""The model that ships with the package: its world, its parts and how they are made."""

WINDOW = 1.3  # side of the window that it edits in, in longer sides of the mask's bounding box: large things are drawn better
