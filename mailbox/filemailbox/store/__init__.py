"""One box on disk: its folders and the renames between them."""
