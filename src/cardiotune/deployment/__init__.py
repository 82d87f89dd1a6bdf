"""A finished model at work: raw rows scored in a process, in bulk, or by an exported copy that
predicts the same."""
