"""Made-up UK Biobank exports, for trials of the UK Biobank reader without any participant."""
