"""The service. `main.py` is where it starts, `core/db.py` is its heart."""

TITLE = "{{ cookiecutter.__project_name }}"  # fmt: skip
DESCRIPTION = "{{ cookiecutter.__description }}"  # fmt: skip
__version__ = "0.1.0"
