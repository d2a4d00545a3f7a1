"""A package, so that no dependency's own `tests` goes before it."""
