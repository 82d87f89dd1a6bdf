"""Model -> predictions -> metrics -> report."""
