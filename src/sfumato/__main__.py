"""`python -m sfumato` is the command `sfumato`."""

from sfumato.cli.main import app

app(prog_name="sfumato")
