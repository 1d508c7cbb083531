"""The vocabulary of labelling: Modality, Labeler, Sample, Null, weights, image decoding."""
