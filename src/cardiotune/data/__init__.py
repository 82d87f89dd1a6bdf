"""Raw table -> cohort -> split -> text -> tokens."""
