"""Tests of the service. A package, so that `import tests` never finds a dependency's `tests`."""
