"""UK Biobank: from an export to a cohort, and a synthetic export to try it on."""
