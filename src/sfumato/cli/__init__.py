"""The command line: parses options, calls the editor, writes files."""
