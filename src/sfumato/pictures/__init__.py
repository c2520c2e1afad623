"""Reading and writing of pictures: every pixel mode, 16 bits, transparency, colour profiles and metadata."""
