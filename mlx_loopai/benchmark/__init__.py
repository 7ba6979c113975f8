"""Side-by-side timing of training and generation against other programs."""
