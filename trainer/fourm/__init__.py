"""Published 4M models: their weights in our blocks, predicted with by the same code as the models trained here."""
