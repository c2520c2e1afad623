"""The web page: plain HTML, CSS and JavaScript modules over the server's API, without a build step or external files."""

from pathlib import Path

FOLDER = Path(__file__).parent
