"""From token shards to an any-to-any model: loader, masking, model, training, generation."""
