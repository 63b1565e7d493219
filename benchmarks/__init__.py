"""Speed, measured against the raw limit and against peers, side by side in one run."""
