"""Who tells it: the report, its figures, checklists and model card."""
