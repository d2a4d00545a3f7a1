"""freeze_startup_objects(): called at the start of the application, and only once."""

import subprocess
import sys

SCRIPT = """
import asyncio, gc
from app.main import create_app

async def start():
    app = create_app()
    async with app.router.lifespan_context(app):
        loaded = gc.get_freeze_count()
        gc.collect()
        print(loaded > 50_000, len(gc.get_objects()) < 5_000)
    later = [[] for _ in range(5_000)]
    async with app.router.lifespan_context(app):
        print(len(gc.get_objects()) >= 5_000)

asyncio.run(start())
"""


def test_startup_objects_are_frozen_once() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )

    assert ["True", "True", "True"] == ended.stdout.split()
