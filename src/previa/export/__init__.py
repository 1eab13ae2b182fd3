"""From a weighting to a training run: how many rows of each task, in the numbers of other people's training stacks (METHOD 8)."""
