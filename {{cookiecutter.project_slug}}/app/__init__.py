"""The service. It starts in `main.py`; its sessions and transactions are in `core/db.py`."""

NAME = "{{ cookiecutter.project_slug }}"
TITLE = "{{ cookiecutter.__project_name }}"  # fmt: skip
DESCRIPTION = "{{ cookiecutter.__description }}"  # fmt: skip
__version__ = "0.1.0"
