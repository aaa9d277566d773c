"""What configs of MMCV 1.x and of MMEngine have in common: optimisers by name, and parameter groups."""
