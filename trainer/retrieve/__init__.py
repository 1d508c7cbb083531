"""Retrieval: nearest samples by a global embedding that is real, or predicted from any other modality."""
