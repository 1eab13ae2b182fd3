"""Results as data: the study file, the simplex of weightings, the store, comparison and recommendation. Never torch."""
