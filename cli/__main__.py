"""``python -m cli`` is the program ``recon``."""

from cli.main import main

main()
