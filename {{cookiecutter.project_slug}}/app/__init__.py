"""The service. `main.py` is where it starts, `core/db.py` is its heart."""

NAME = "{{ cookiecutter.project_slug }}"
TITLE = "{{ cookiecutter.__project_name }}"  # fmt: skip
DESCRIPTION = "{{ cookiecutter.__description }}"  # fmt: skip
__version__ = "0.1.0"
