"""The mathematics: posterior families, merge and EM. Needs torch and nothing else."""
