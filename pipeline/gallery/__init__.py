"""The page: one static HTML file that shows a run, its figures, and its photos in every modality."""
