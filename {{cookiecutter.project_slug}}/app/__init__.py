"""The service. `main.py` is where it starts, `core/db.py` is its heart."""

TITLE = "{{ cookiecutter.__project_name }}"
DESCRIPTION = "{{ cookiecutter.__description }}"
__version__ = "0.1.0"
