"""The choice among variants, and the report on it."""
