"""The command line: `app` assembles it, `output` alone prints, and each other file is one command."""
