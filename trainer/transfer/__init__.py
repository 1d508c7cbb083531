"""Transfer: the encoder with a head for classification, segmentation or depth, and the encoder as others can load it."""
