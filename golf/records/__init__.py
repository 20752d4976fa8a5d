"""The results of the seeds, and the records folder that they are handed in with."""
