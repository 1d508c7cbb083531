"""Taking images in: sources name candidates, each is normalised or quarantined, and what is new becomes index and rgb
shards.
"""
