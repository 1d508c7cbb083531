"""The tokenizers that 4M publishes: their networks by the names of their tensors, their files, and their data layout."""
