"""The first minutes on a GPU: everything worth measuring, in order of value."""
