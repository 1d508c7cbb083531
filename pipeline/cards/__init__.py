"""What a data set says of itself to people and programs: a data card and a Croissant description."""
