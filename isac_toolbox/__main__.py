"""``python -m isac_toolbox`` is the command ``isac``."""

from isac_toolbox.cli import main

if __name__ == "__main__":
    main()
