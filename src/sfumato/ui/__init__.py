"""The page: plain HTML, CSS and JavaScript modules over the server's own API. Nothing is built, nothing comes from elsewhere."""

from pathlib import Path

FOLDER = Path(__file__).parent
