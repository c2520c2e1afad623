"""The command line: options in, files out. Everything else is the editor's."""
