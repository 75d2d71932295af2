"""What a run will take, worked out before anything is taken; no Ray."""
