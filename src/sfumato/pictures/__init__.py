"""Pictures: files to samples and back, with every pixel mode, 16 bits, transparency, colour profiles and metadata kept."""
