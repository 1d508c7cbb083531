"""What a data set needs over the years: verify, repair, collect garbage, forget, retry, promote, explain, compare."""
