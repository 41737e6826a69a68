"""Where images come from: folders, HDF5, torchvision's files; how they are read and what is wrong with them."""
