"""What a modality is, and how each one is computed from pixels.

Every module directly in this package is one labeler with the modalities it produces, or several backends of one;
`labelers.core` holds what they share. Nothing here knows of storage, shards or Ray: a labeler runs on one image, in a
test, in plain Python.
"""
