"""Generation: any modality from any others, and from parts of itself."""
