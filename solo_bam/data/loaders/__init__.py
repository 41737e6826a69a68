"""From a data set to batches: torchvision's way, DALI, and crops made of a tensor in memory."""
